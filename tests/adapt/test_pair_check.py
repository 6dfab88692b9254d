"""Pairs that do not show the same are refused; noise alone is no reason."""

import numpy as np
import pytest
from phantoms import ct_volume
from scipy.ndimage import shift

from medrestore_monai.adapt.pairs import pair_problem

CLEAN = ct_volume(3, 101).astype(np.float32)
NOISY = CLEAN + np.random.default_rng(0).normal(0, 40, CLEAN.shape).astype(np.float32)


def problem(degraded):
    return pair_problem(degraded, CLEAN, (0.75, 0.75), "CT")


def test_a_noisy_image_and_its_target_are_a_pair():
    assert problem(NOISY) == ""
    assert problem(shift(NOISY, (0.2, 0.1, 0), order=3, mode="nearest")) == ""


@pytest.mark.parametrize(
    ("degraded", "reason"),
    [
        (shift(NOISY, (1.5, 0, 0), order=1, mode="nearest"), "shifted by 1.5"),
        (NOISY * 1.05, "times the contrast"),
        (-NOISY, "does not look like"),
        (NOISY[::-1].swapaxes(0, 1) + 300 * np.sin(np.arange(101) / 9)[:, None, None], "does not look like"),
        (NOISY[:99], "has the shape"),
        (np.zeros_like(CLEAN), "shows nothing"),
    ],
)
def test_other_images_are_none(degraded, reason):
    assert reason in problem(np.asarray(degraded, dtype=np.float32))
