"""Blur that varies: each place has its own kernel, and between the places nothing jumps."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from medrestore_monai.transforms import VaryingBlur, varying_blur
from medrestore_monai.transforms.blur import blur
from medrestore_monai.transforms.blur.kernels import disk_kernel, linear_motion_kernel
from medrestore_monai.transforms.blur.varying import draw_kernels, place_weights

PLACES = np.array([[0.1, 0.2], [0.8, 0.5], [0.3, 0.9]])


@pytest.mark.parametrize("size", [(97, 90), (1, 5), (33, 64)])
def test_weights_sum_to_one_and_change_smoothly(size):
    weights = place_weights(size, PLACES)
    assert weights.shape == (3, *size)
    assert_close(weights.sum(dim=0), torch.ones(size, dtype=torch.float64))
    assert weights.min() > 0
    # the steepest change is between two places a picture apart, distance / (4 reach^2) per side
    bound = 1.5 / (4 * 0.25**2)
    for axis, side in enumerate(size, start=1):
        assert side == 1 or weights.diff(dim=axis).abs().max() < bound / side


def test_a_place_weighs_most_about_itself():
    weights = place_weights((100, 100), PLACES)
    for number, (x, y) in enumerate(PLACES):
        assert weights[:, int(100 * x), int(100 * y)].argmax() == number


@pytest.mark.parametrize("shape", [(2, 41, 38), (1, 41, 38, 3)])
def test_the_blend_is_that_of_whole_blurred_pictures(shape):
    image = torch.from_numpy(np.random.RandomState(0).rand(*shape))
    kernels = [disk_kernel(3.2), linear_motion_kernel(9, 30.0), np.ones((1, 1))]
    weights = place_weights(shape[1:3], PLACES)
    out = varying_blur(image, kernels, weights)
    blurred = [blur(image, kernel).numpy() for kernel in kernels]
    for x, y in [(0, 0), (20, 17), (40, 37)]:
        expected = sum(float(w) * one[:, x, y] for w, one in zip(weights[:, x, y], blurred, strict=True))
        np.testing.assert_allclose(out[:, x, y].numpy(), expected, rtol=1e-12)


def test_hard_weights_keep_each_part_to_its_kernel():
    image = torch.rand(1, 30, 40)
    weights = torch.zeros(2, 30, 40)
    weights[0, :, :20] = weights[1, :, 20:] = 1
    kernels = [disk_kernel(2.5), disk_kernel(0)]
    out = varying_blur(image, kernels, weights)
    assert_close(out[..., :20], blur(image, kernels[0])[..., :20], rtol=0, atol=0)
    assert_close(out[..., 20:], image[..., 20:], rtol=0, atol=0)


def spread(picture, x, y):
    """Second moment of a point about where it was."""
    i, j = torch.meshgrid(*(torch.arange(float(side)) for side in picture.shape), indexing="ij")
    return float((picture * ((i - x) ** 2 + (j - y) ** 2)).sum() / picture.sum())


def test_points_spread_differently_over_a_picture():
    spreads = []
    for x, y in [(30, 30), (30, 130), (130, 30), (130, 130)]:
        point = torch.zeros(1, 161, 161)
        point[0, x, y] = 1
        spreads.append(spread(VaryingBlur(21.0, seed=4)(point)[0], x, y))
    assert max(spreads) > 1.3 * min(spreads) > 1.3


@pytest.mark.parametrize("width", [3.0, 12.0, 31.0])
def test_kernels_of_a_picture_are_of_one_kind_and_up_to_the_width(width):
    kinds = set()
    for seed in range(30):
        kernels = draw_kernels(width, np.random.RandomState(seed))
        assert len(kernels) == 3
        for kernel in kernels:
            assert kernel.sum() == pytest.approx(1, abs=1e-12)
            assert kernel.min() >= 0
            x = np.arange(kernel.shape[0]) - kernel.shape[0] // 2
            rows = kernel.sum(axis=1)
            assert abs(rows @ x) < 1e-9
            assert rows @ x**2 < (width / 2 + 1) ** 2
        kinds.add(sum(np.allclose(kernel, kernel.T) for kernel in kernels) == 3)
    assert kinds == {True, False}


def test_weights_that_do_not_fit_are_refused():
    image, kernels = torch.zeros(1, 8, 9), [disk_kernel(1), disk_kernel(2)]
    with pytest.raises(ValueError, match=r"shape \(2, 8, 9\), got \(2, 9, 8\)"):
        varying_blur(image, kernels, torch.full((2, 9, 8), 0.5))
    with pytest.raises(ValueError, match="sum 1 at every pixel"):
        varying_blur(image, kernels, torch.full((2, 8, 9), 0.6))
