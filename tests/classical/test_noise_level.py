"""The noise level of an image is that of the noise put into it, and does not ask for a clean image."""

import numpy as np
import pytest
from phantoms import body_phantom

from medrestore_monai.classical import noise_level
from medrestore_monai.classical.noise import LEAST


@pytest.mark.parametrize("size", [(96, 96), (75, 61)])
@pytest.mark.parametrize("std", [0.002, 0.02, 0.08])
def test_white_noise_is_measured_in_flat_images_and_ramps(size, std):
    x, y, z = np.meshgrid(*(np.linspace(0, 1, side) for side in (*size, 4)), indexing="ij")
    noise = std * np.random.default_rng(0).standard_normal(x.shape)
    for clean in (np.full(x.shape, 0.4), 0.4 + 0.1 * x - 0.05 * y + 0.1 * x * y + 0.02 * z):
        assert noise_level((clean + noise)[None]) == pytest.approx(std, rel=0.04)


def test_noise_in_the_body_counts_and_edges_hardly_do():
    body = (body_phantom((256, 240)) + 1024) / 4096
    rng = np.random.default_rng(0)
    noise = np.where(body > 0.2, 0.01, 0.1 * body) * rng.standard_normal(body.shape)
    assert noise_level((body + noise)[None]) == pytest.approx(0.01, rel=0.15)
    assert noise_level(body[None]) == LEAST


def test_more_noise_is_a_higher_level_and_slices_count_together():
    body = (body_phantom(96) + 1024) / 4096
    white = np.random.default_rng(0).standard_normal((*body.shape, 6))
    volumes = [(body[..., None] + std * white)[None] for std in (0.005, 0.01, 0.02)]
    levels = [noise_level(volume) for volume in volumes]
    assert levels == sorted(levels)
    assert noise_level(volumes[1][..., ::-1]) == levels[1]
    assert noise_level(volumes[1][..., 0]) == pytest.approx(levels[1], rel=0.1)


def test_small_and_empty_images_have_the_least_level():
    assert noise_level(np.random.default_rng(0).random((1, 4, 9))) == LEAST
    assert noise_level(np.zeros((1, 16, 16, 2))) == LEAST
