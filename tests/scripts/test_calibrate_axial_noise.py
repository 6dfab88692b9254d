"""The estimator of ``scripts/calibrate/axial_noise.py``, on noise of known correlation and on real stacks."""

import json

import numpy as np
import pytest
from script_loading import load_script

from medrestore_monai.transforms.axial_noise import axial_weights, axial_width, correlation_of


@pytest.fixture(scope="module")
def script():
    return load_script("calibrate/axial_noise.py")


@pytest.mark.parametrize("known", [0.0, 0.3, 0.7])
def test_anatomy_does_not_hide_the_correlation_of_the_noise(script, known):
    x, y = np.meshgrid(np.arange(-45.0, 46.0), np.arange(-40.0, 40.0), indexing="ij")
    body = np.where((x / 40) ** 2 + (y / 35) ** 2 < 1, 40 + x, -1000.0)  # the same in all slices
    noisy = body + 10 * script.simulated((12, *body.shape), known, 0.5)
    flat = script.ct_flat(noisy, 1.5)
    assert 1000 < flat[0].sum() < (body > -500).sum() / 2
    found = script.correlations(script.high_pass(noisy, 1.0), flat)
    weights = axial_weights(axial_width(known, 1.0), 1.0)
    assert found[0] == pytest.approx(known, abs=0.03)
    assert found[1:3] == pytest.approx([correlation_of(weights, lag) for lag in (2, 3)], abs=0.03)


@pytest.mark.slow
def test_real_slices_are_correlated_as_the_simulation_assumes(script, shared_data):
    folder = shared_data / "ct_contiguous_tcia"
    meta = {one["key"]: one for one in json.loads((folder / "meta.json").read_text())}["ACRIN-FLT-Breast_013"]
    volume = np.load(folder / "slices.npz")[meta["key"]].astype(np.float32)
    found = script.correlations(script.high_pass(volume, 1.0), script.ct_flat(volume, meta["spacing_mm"][1]))
    assert found[0] == pytest.approx(0.3, abs=0.02)
    assert max(found[1:]) < 0.05
