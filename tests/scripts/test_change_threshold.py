"""Planted inventions and erasures: found where the threshold allows it, and none where nothing is planted."""

import sys
from pathlib import Path

import numpy as np
import pytest
from phantoms import body_phantom
from script_loading import load_script

from medrestore_monai.audit import Volume
from medrestore_monai.audit.noise import measure_noise

sys.path.insert(0, str(Path(__file__).parents[1] / "audit"))
from noise_fields import correlated_noise

script = load_script("calibrate/change_threshold.py")
SPACING = (0.8, 0.8, 2.5)


def denoised_slice(seed):
    clean = body_phantom((250, 241))
    noise = correlated_noise((*clean.shape, 1), SPACING[0], 0.4, 15.0, seed)[0][..., 0]
    source, result = (Volume(clean + part * noise * (clean > -900), "CT", SPACING) for part in (1.0, 0.4))
    return "person", source, result, clean


def test_planted_structure_is_found_and_nothing_else():
    found = [denoised_slice(seed) for seed in (1, 2)]
    rules = [script.Rule(threshold=5.0), script.Rule(threshold=30.0), script.Rule(share=0.5)]
    counts, blind, shared = script.check(found, rules, "CT").values()
    assert counts["slices"] == 2
    assert counts["planted"] >= 8
    assert counts["flags"] == 0
    for kind in ("inventions_found", "erasures_found"):
        assert counts[kind] >= 0.8 * counts["planted"]
    assert blind["planted"] == counts["planted"]
    assert blind["inventions_found"] == blind["erasures_found"] == 0
    assert shared["flags"] == 0
    assert shared["inventions_found"] == counts["planted"]


def test_flags_are_counted_by_threshold_and_discs_have_their_size():
    _, source, result, _ = denoised_slice(1)
    result.array[100:110, 120:130] += 25
    noise = measure_noise(source, source)
    counts = script.flags_by_share(source, result, noise)
    assert counts[0.05] == 1
    z = script.change_map(source, result, noise, noise.of_source)[0][..., 0]
    assert script.count_flags(z, 6.0) == 1
    assert script.count_flags(z, 20.0) == 0
    diameter, disc = script.disc_of(noise, source.pixel)
    assert diameter >= 4
    assert disc.sum() * SPACING[0] * SPACING[1] == pytest.approx(np.pi / 4 * diameter**2, rel=0.15)
