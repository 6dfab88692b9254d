import numpy as np
import pytest
import torch
from monai.transforms import Compose
from scipy import ndimage
from torch.testing import assert_close

from medrestore_monai.transforms import (
    MotionBlur,
    RandMotionBlurd,
    RandPublishedMotionBlurd,
    RandSensorNoised,
    SensorNoise,
    anisotropic_gaussian_blur,
    bent_motion_blur,
    defocus_blur,
    gaussian_blur,
    linear_motion_blur,
    motion_blur,
)
from medrestore_monai.transforms.blur import blur
from medrestore_monai.transforms.blur.kernels import motion_kernel


@pytest.mark.parametrize("size", [(31, 44), (7, 5), (1, 9)])  # also smaller than the kernel
def test_blur_is_the_convolution_of_scipy(size):
    random = np.random.RandomState(0)
    image, kernel = random.rand(2, *size), random.rand(9, 7)
    expected = [ndimage.convolve(channel, kernel, mode="mirror") for channel in image]
    assert_close(blur(torch.from_numpy(image), kernel).numpy(), np.stack(expected))
    single = blur(torch.from_numpy(image).float(), kernel)
    assert single.dtype == torch.float32
    assert_close(single.double().numpy(), np.stack(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.5, 1.5, 4.0])
def test_gaussian_blur_is_that_of_scipy(sigma):
    image = np.random.RandomState(0).rand(1, 37, 50)
    expected = ndimage.gaussian_filter(image[0], sigma, mode="mirror", truncate=4)[None]
    assert_close(gaussian_blur(torch.from_numpy(image), sigma).numpy(), expected)


@pytest.mark.parametrize("shape", [(31, 44), (7, 5), (1, 9), (40, 33, 3)])  # also smaller than the kernel
def test_kernels_of_many_pixels_are_applied_by_fft(shape):
    random = np.random.RandomState(0)
    image, kernel = random.rand(2, *shape), random.rand(19, 17)
    kernels = kernel if len(shape) == 2 else kernel[..., None]
    expected = [ndimage.convolve(channel, kernels, mode="mirror") for channel in image]
    assert_close(blur(torch.from_numpy(image), kernel).numpy(), np.stack(expected))
    single = blur(torch.from_numpy(image).float(), kernel)
    assert single.dtype == torch.float32
    assert_close(single.double().numpy(), np.stack(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "degrade",
    [
        lambda i: motion_blur(i, 30, 20.0),
        lambda i: linear_motion_blur(i, 7.5, 100.0),
        lambda i: bent_motion_blur(i, 20.0, 50.0, 70.0, 3),
        lambda i: defocus_blur(i, 3.3),
        lambda i: defocus_blur(i, 12.5),
        lambda i: anisotropic_gaussian_blur(i, 4.0, 1.0, 20.0),
    ],
)
def test_a_blur_keeps_level_and_place(degrade):
    assert_close(degrade(torch.full((1, 40, 33), -1000.0)), torch.full((1, 40, 33), -1000.0))
    point = torch.zeros(1, 101, 101)
    point[0, 40, 55] = 1
    spread = degrade(point)[0]
    x = torch.arange(101.0)
    assert_close((spread.sum(dim=1) * x).sum(), torch.tensor(40.0), rtol=1e-4, atol=0)
    assert_close((spread.sum(dim=0) * x).sum(), torch.tensor(55.0), rtol=1e-4, atol=0)


def test_motion_goes_the_way_the_angle_says():
    point = torch.zeros(1, 41, 41)
    point[0, 20, 20] = 1
    along_x = linear_motion_blur(point, 9, 0)[0]
    assert_close(along_x[16:25, 20], torch.full((9,), 1 / 9))
    along_y = linear_motion_blur(point, 9, 90)[0]
    assert_close(along_y[20, 16:25], torch.full((9,), 1 / 9))
    diagonal = motion_blur(point, 9, 0)[0]
    assert_close(diagonal.diagonal()[16:25], torch.full((9,), 1 / 9))


def test_blur_with_noise_is_equation_1_of_meddeblur():
    image = torch.rand(1, 50, 60) * 200
    both = Compose([RandMotionBlurd("image"), RandSensorNoised("image", std=3)]).set_random_state(2)
    out = both({"image": image})
    blurred = MotionBlur(**out["motion_blur"])(image)
    assert_close(out["image"], SensorNoise(**out["sensor_noise"])(blurred), rtol=0, atol=0)
    assert (out["image"] - blurred).std().item() == pytest.approx(3, rel=0.05)


def test_the_papers_kernels_make_pictures_darker_and_can_be_replayed():
    item = {"image": torch.full((1, 60, 70), 200.0)}
    out = RandPublishedMotionBlurd("image").set_random_state(3)(item)
    values = out["published_motion_blur"]
    assert values == RandMotionBlurd("image").set_random_state(3)(item)["motion_blur"]
    share = motion_kernel(values["length"], values["angle"], "length").sum()
    assert 0.7 < share < 0.99
    assert_close(out["image"], torch.full((1, 60, 70), 200.0 * float(share)))


def test_drawn_lengths_and_angles_fill_the_ranges_of_the_paper():
    transform = RandMotionBlurd("image").set_random_state(0)
    drawn = [transform.draw() for _ in range(2000)]
    lengths, angles = {one.length for one in drawn}, [one.angle for one in drawn]
    assert lengths == set(range(20, 46))
    assert -45 <= min(angles) < -44
    assert 44 < max(angles) <= 45
    assert abs(np.mean(angles)) < 2


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="odd sides"):
        blur(torch.zeros(1, 8, 8), np.ones((2, 3)))
