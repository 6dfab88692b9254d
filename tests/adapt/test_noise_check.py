"""Drawn noise beside that of an image, slice by slice and block by block."""

import numpy as np
import pytest

from medrestore_monai.adapt.noise_check import block_ratios, check_level, place_factor, robust_ratio

SHAPE, PIXEL = (150, 131, 3), (1.0, 1.0)


def noise(seed, level=1.0):
    return (np.random.default_rng(seed).standard_normal(SHAPE) * level).astype(np.float32)


def checked(image):
    drawn, flat = [noise(8), noise(9)], np.ones(SHAPE, dtype=bool)
    return check_level(image, drawn, flat, PIXEL, robust_ratio(image, drawn, flat))


def test_equal_noise_passes():
    check = checked(noise(1))
    assert check.held
    assert check.level == pytest.approx(1, abs=0.03)
    assert check.variation < 0.1


@pytest.mark.parametrize("level", [0.9, 1.1])
def test_another_level_fails(level):
    check = checked(noise(1, level))
    assert not check.held
    assert check.level == pytest.approx(level, abs=0.03)


def test_uneven_noise_fails():
    image = noise(1)
    image[:75] *= 0.5
    check = checked(image)
    assert not check.held
    assert check.variation > 0.2


def test_vessels_hardly_move_the_level():
    image = noise(1)
    image[::25, ::25] += 30
    assert robust_ratio(image, [noise(8)], np.ones(SHAPE, dtype=bool)) == pytest.approx(np.ones(3), abs=0.05)


def test_slices_without_flat_regions_get_the_level_of_the_others():
    flat = np.ones(SHAPE, dtype=bool)
    flat[..., 1] = False
    ratios = robust_ratio(noise(1, 2.0), [noise(8)], flat)
    assert ratios == pytest.approx(np.full(3, 2.0), rel=0.05)
    assert robust_ratio(noise(1), [noise(8)], np.zeros(SHAPE, dtype=bool)).tolist() == [1, 1, 1]


def test_a_slope_of_the_level_is_found():
    slope = np.exp(np.linspace(-0.25, 0.25, SHAPE[0]))
    image = noise(1) * slope[:, None, None].astype(np.float32)
    blocks = block_ratios(image, [noise(8), noise(9)], np.ones(SHAPE, dtype=bool), PIXEL)
    factor = place_factor(blocks[blocks[:, 2] == 0], SHAPE[:2])
    inner = factor[20:130, 60] / factor[70, 60]
    assert inner == pytest.approx(slope[20:130] / slope[70], rel=0.08)
    assert np.ptp(np.log(factor[60])) < 0.15
    assert (place_factor(blocks[:5], SHAPE[:2]) == 1).all()
