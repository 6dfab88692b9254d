"""Killed restorations, bad inputs and the memory of long volumes, as the scripts of ``scripts/faults`` try them."""

import argparse
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "faults"))

import bad_inputs
import kill_restore
import peak_memory
from running import Command

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")]
FEW = ["dicom_cut_in_pixels", "dicom_run_length_small_bomb", "gzip_bomb", "zip_bomb", "pipe", "series_with_device"]


@pytest.mark.parametrize("kind", ["nifti", "zip"])
def test_a_killed_restoration_leaves_nothing_that_the_next_one_does_not_clear(tmp_path, kind):
    tried = kill_restore.Kind(tmp_path, kind, fork=True)
    for watch in (False, True):
        found = tried.kill(random.Random(0), watch, replace=watch)
        assert set(found) <= {"killed", "ended before", "cleared next", "between renames"}


@pytest.mark.parametrize("name", FEW)
def test_a_bad_input_ends_with_one_sentence(tmp_path, name):
    given = argparse.Namespace(work=tmp_path, seconds=100, commands=False, gigabytes=1.0)
    place = tmp_path / name
    place.mkdir()
    make, bundle = bad_inputs.CASES[name]
    source = make(place)
    before = bad_inputs.listing(place)
    ended = bad_inputs.run(given, name, source, bundle)
    assert bad_inputs.look(given, name, place, before, ended, ended.peak) == []


def test_there_are_forty_bad_inputs():
    assert len(bad_inputs.CASES) - len(bad_inputs.GOOD) >= 40


def test_a_long_volume_needs_no_more_memory_than_a_short_one(tmp_path):
    peaks = []
    for slices in (40, 400):
        (tmp_path / str(slices)).mkdir()
        source, output = peak_memory.make(tmp_path / str(slices), "nifti", 96, slices)
        args = ["restore", source, "-o", output, "--device", "cpu", "--strength", "0", "--bundle", bad_inputs.CT]
        ended = Command(args, tmp_path / "log.txt", tmp_path / "temporary").wait(100)
        assert ended.code == 0, ended.text
        assert "Memory: about " in ended.text
        peaks.append(ended.peak)
    assert peaks[1] < peaks[0] + 30e6  # 360 slices have 13 MB as float32
