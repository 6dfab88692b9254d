"""Contrast recovery in the NEMA phantom: discs in mm, spheres where they are, background away from them."""

import numpy as np
import pytest
from script_loading import load_script

nema = load_script("experiments/nema_recovery.py")
PIXEL = 4.0


def test_a_disc_counts_parts_of_pixels():
    x, y = np.meshgrid(np.arange(40), np.arange(41), indexing="ij")
    plane = 3.0 * x - 2.0 * y + 5
    center = np.array([20.3, 18.7]) * PIXEL
    # the mean of a plane is its value in the center
    assert nema.disc_mean(plane, center, 37, PIXEL) == pytest.approx(3 * 20.3 - 2 * 18.7 + 5, abs=0.02)
    one = np.zeros((40, 41))
    one[20, 19] = 1
    area = np.pi / 4 * 10**2
    assert nema.disc_mean(one, np.array([20.0, 19.0]) * PIXEL, 10, PIXEL) == pytest.approx(PIXEL**2 / area, rel=0.03)


@pytest.mark.slow
def test_spheres_and_background_are_found():
    steps = np.meshgrid(*(np.arange(size) * PIXEL for size in (90, 80, 15)), indexing="ij")
    middle, turn = np.array([176.0, 160.0]), np.deg2rad(40 - 60 * np.arange(6))
    spheres = middle + 57.2 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    body = ((steps[0] - middle[0]) / 150) ** 2 + ((steps[1] - middle[1]) / 130) ** 2 < 1
    volume = body.astype(np.float32)
    for center, diameter in zip(spheres, nema.DIAMETERS, strict=True):
        squared = (steps[0] - center[0]) ** 2 + (steps[1] - center[1]) ** 2 + (steps[2] - 28) ** 2
        volume[squared < (diameter / 2 + 2) ** 2] = 8
    z, found = nema.find_spheres(volume, (PIXEL,) * 3)
    assert abs(z - 7) <= 1
    assert np.linalg.norm(found - spheres, axis=1).max() < 5
    places = nema.background_places((90, 80), body[..., 7], spheres, PIXEL)
    assert len(places) == 12
    apart = np.linalg.norm(places[:, None] - spheres, axis=-1) - np.array(nema.DIAMETERS) / 2
    assert apart.min() > 37 / 2
