"""Correlation of the noise of neighboring slices."""

import numpy as np
import pytest
import torch

from medrestore_monai.adapt.slice_correlation import axial_width_of, noise_correlation, target_offset
from medrestore_monai.transforms.axial_noise import axial_weights, axial_width, correlation_of, white_slices


def volume(correlation, slices=9, seed=3):
    weights = axial_weights(axial_width(correlation, 2.0), 2.0)
    noise = white_slices(seed, range(slices), (120, 101), weights)
    x, y = np.mgrid[-1:1:120j, -1:1:101j]
    anatomy = np.where(np.hypot(x, y) < 0.9, 40.0 + 60 * (np.hypot(x - 0.3, y) < 0.2), -1000.0)
    return (np.moveaxis(noise, 0, -1) * 20 + anatomy[..., None]).astype(np.float32), weights


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6])
def test_correlation_is_that_of_the_noise_and_not_of_anatomy(correlation):
    image, weights = volume(correlation)
    measured = noise_correlation(image, (0.8, 0.8), "CT")
    expected = [correlation_of(weights, lag) if lag < len(weights) else 0.0 for lag in (1, 2, 3, 4)]
    assert measured == pytest.approx(expected, abs=0.04)
    width = axial_width_of(torch.from_numpy(image)[None], (0.8, 0.8, 2.0), "CT")
    assert width == pytest.approx(axial_width(correlation, 2.0), abs=0.15)


def test_few_slices_leave_lags_open():
    image, _ = volume(0.3, slices=3)
    measured = noise_correlation(image, (0.8, 0.8), "CT")
    assert np.isfinite(measured).tolist() == [True, True, False, False]
    assert axial_width_of(torch.from_numpy(image[..., :1])[None], (0.8, 0.8, 2.0), "CT") == 0.0


@pytest.mark.parametrize(
    ("correlation", "kept", "context", "distance", "expected"),
    [
        ((0.4, 0.02, 0.0, 0.0), 0.0, 0, 1.0, 2),
        ((0.28, 0.02, 0.0, 0.0), 0.25, 0, 1.0, 1),  # what it would keep is what is wanted
        ((0.4, 0.02, 0.0, 0.0), 0.0, 2, 1.0, 3),  # the network sees two on each side
        ((0.4, 0.02, 0.0, 0.0), 0.0, 0, 2.0, None),  # 4 mm are too far
        ((0.9, 0.7, 0.5, 0.3), 0.0, 0, 0.5, None),  # PET
        ((np.nan,) * 4, 0.0, 0, 0.5, None),
    ],
)
def test_only_independent_slices_become_targets(correlation, kept, context, distance, expected):
    assert target_offset(np.array(correlation), kept, context, distance) == expected
