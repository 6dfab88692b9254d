"""People are scored against the ranges of the others, by the series that lies furthest out."""

import sys

import numpy as np
import pytest
from phantoms import body_phantom
from script_loading import SCRIPTS, load_script

from medrestore_monai.audit import Volume

BLOCK = {"unit": "SUV", "pixel_mm": [3.0, 5.0], "distance_mm": [2.0, 4.0]}


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(SCRIPTS / "train"), *sys.path])
    return load_script("train/scope_scores.py")


def person(script, *pixels):
    array = np.abs(body_phantom(48))
    images = [Volume(array, "PT", (pixel, pixel, 3.0)) for pixel in pixels]
    return script.Person(images, list(pixels), [3.0])


def test_nobody_widens_the_ranges_that_judge_them(script):
    people = [person(script, 3.0), person(script, 4.0), person(script, 4.0, 5.0)]
    block = script.without(BLOCK, [people[0], people[1]])
    assert block["pixel_mm"] == [3.0, 4.0]
    assert block["distance_mm"] == [3.0, 3.0]
    assert BLOCK["pixel_mm"] == [3.0, 5.0]
    assert script.score_of(people[2], "PT", BLOCK, False) == 0
    assert script.score_of(people[2], "PT", block, False) == pytest.approx(2.5)  # 25 % above, of a margin of 10 %
    assert script.without({"unit": "SUV"}, people) == {"unit": "SUV"}


def test_the_look_is_that_of_the_others(script):
    people = [script.Person(looks=[{"background": one / 10, "border": one / 100}]) for one in (1, 2, 10)]
    limits = {"background": [0.2, 1.0], "border": [0.02, 0.1]}
    assert script.without({}, people[1:]) == {"appearance": limits}


def test_few_people_say_nothing_of_one_more(script, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(script, "read_people", lambda *_: dict.fromkeys("ab", script.Person()))
    with pytest.raises(SystemExit, match="2"):
        script.main(["all_in_one_restore_rwkv", "--modality", "MR", "--data", str(tmp_path)])
    assert "only 2 people train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("score", "expected"), [(0.0, 0.0), (1.041, 1.05), (1.04, 1.04), (0.07141, 0.0715), (9.999, 10.0), (10.0, 10.0)]
)
def test_scores_are_rounded_up_so_that_the_limit_holds_for_what_it_comes_from(script, score, expected):
    assert script.rounded_up(score) == expected >= score
