"""The script that calibrates intervals: who is checked with whose intervals, and what is written."""

import json
import sys

import numpy as np
import pytest
from script_loading import load_script

from medrestore_monai.audit.interval import Errors

script = load_script("calibrate/intervals.py")


def person(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    values = {name: rng.exponential(1, 4000) for name in ("edge", "change", "noise")}
    return [Errors(scale * np.abs(rng.normal(size=4000)), values)]


@pytest.fixture
def calibrate(monkeypatch, tmp_path):
    """Run the script on people of each part, and return what it writes."""

    def run(people, *options):
        monkeypatch.setattr(script, "open_model", lambda *_: None)
        monkeypatch.setattr(script, "patients_of", lambda _model, _data, part, *_: people[part])
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        fixed = ["--bundle", "ct_denoise_restore_rwkv", "--data", "x", "--images", "such images", "-o", str(output)]
        monkeypatch.setattr(sys, "argv", ["intervals", *fixed, *options])
        script.main()
        return json.loads(output.read_text())["modalities"]["CT"]

    return run


def test_each_is_checked_with_intervals_of_the_others(calibrate):
    loud = {f"{seed}": person(seed) for seed in range(10)} | {"loud": person(99, scale=3.0)}
    found = calibrate({"calibration": loud}, "--empirical")
    assert (found["patients"], found["promise"], found["coverage"]["patients"]) == (11, False, 11)
    assert found["coverage"]["worst"] < 0.6 < 0.85 < found["coverage"]["mean"]  # the others know no such errors
    promised = calibrate({"calibration": loud})
    assert np.mean(promised["factors"]) > 1.1 * np.mean(found["factors"])


def test_parts_are_joined_and_another_part_checks(calibrate):
    people = {part: {f"{part}{seed}": person(seed) for seed in range(2)} for part in ("calibration", "validation")}
    people["test"] = {"one": person(7, scale=0.1)}
    found = calibrate(people, "--part", "calibration,validation", "--check", "test")
    assert (found["patients"], found["coverage"]) == (4, {"part": "test", "patients": 1, "mean": 1.0, "worst": 1.0})
    assert not calibrate(people)["coverage"]  # of two, none is left to calibrate on
