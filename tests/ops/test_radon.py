import math

import numpy as np
import pytest
import torch
from skimage.data import shepp_logan_phantom
from skimage.transform import iradon, radon, resize
from torch.testing import assert_close

from medrestore_monai.ops.radon import (
    FanBeam,
    fan_fbp,
    fan_project,
    parallel_backproject,
    parallel_fbp,
    parallel_project,
    view_angles,
)

SIZE = 129  # odd: scikit-image's center of rotation is then ours
FAN = FanBeam(source_distance=300.0, detectors=280, pitch=0.7)


@pytest.fixture(scope="module")
def phantom():
    # smooth, so that the two interpolations agree
    picture = resize(shepp_logan_phantom(), (SIZE, SIZE), anti_aliasing=True).astype(np.float32)
    x = np.arange(SIZE) - SIZE // 2
    return picture * (np.hypot(x[:, None], x) < SIZE // 2 - 1)


def disk(size, spacing, center, radius, oversample=5):
    """Picture of a disk with antialiased border, shape (1, 1, size, size)."""
    fine = (torch.arange(size * oversample) - (size * oversample - 1) / 2) * spacing / oversample
    inside = (fine[:, None] - center[0]) ** 2 + (fine[None] - center[1]) ** 2 <= radius**2
    return torch.nn.functional.avg_pool2d(inside.float()[None, None], oversample)


def chords(angle, position, center, radius):
    """Length of the parallel ray (angle, position) inside a disk."""
    distance = position - (center[0] * torch.cos(angle) + center[1] * torch.sin(angle))
    return 2 * torch.sqrt((radius**2 - distance**2).clamp(min=0))


def test_parallel_projection_matches_scikit_image(phantom):
    angles = view_angles(90)
    ours = parallel_project(torch.from_numpy(phantom.T.copy())[None, None], angles)[0, 0]
    # scikit-image turns the other way round: rows run down the page
    theirs = radon(phantom, -np.rad2deg(angles.numpy()), circle=True).T
    assert np.abs(ours.numpy() - theirs).mean() < 0.005 * theirs.max()


@pytest.mark.slow
def test_parallel_fbp_matches_scikit_image(phantom):
    angles = view_angles(180)
    sinogram = radon(phantom, -np.rad2deg(angles.numpy()), circle=True)
    theirs = iradon(sinogram, -np.rad2deg(angles.numpy()), filter_name="ramp", circle=True)
    ours = parallel_fbp(torch.from_numpy(sinogram.T.astype(np.float32))[None, None], angles, (SIZE, SIZE))
    circle = np.hypot(*(np.indices(theirs.shape) - SIZE // 2)) < SIZE // 2 - 1
    assert_close(ours[0, 0].numpy().T[circle], theirs[circle].astype(np.float32), rtol=0, atol=1e-5)


@pytest.mark.parametrize("center", [(0.0, 0.0), (21.0, -13.0)])
def test_projections_of_a_disk_are_its_chords(center):
    spacing, radius = 0.8, 25.0
    image = disk(160, spacing, center, radius)
    angles = view_angles(12)
    position = (torch.arange(160) - 79.5) * spacing
    expected = chords(angles[:, None], position, center, radius)
    got = parallel_project(image, angles, spacing)[0, 0]
    assert (got - expected).abs().mean() < 0.1  # mm, of 50

    angles = view_angles(12, 2 * math.pi)
    fan = FAN.fan_angles()
    expected = chords(angles[:, None] + fan, FAN.source_distance * fan.sin(), center, radius)
    got = fan_project(image, angles, spacing, FAN)[0, 0]
    assert (got - expected).abs().mean() < 0.1


# the wide fan opens 91 degrees: without the (g / sin g)^2 of the arc detector its values are 4 % off
WIDE_FAN = FanBeam(source_distance=120.0, detectors=240, pitch=0.8)


@pytest.mark.slow
@pytest.mark.parametrize("beam", [None, FAN, WIDE_FAN], ids=["parallel", "fan", "wide fan"])
def test_fbp_gives_back_value_and_place(beam):
    spacing, center, radius = 0.8, (20.0, -10.0), 22.0
    image = disk(160, spacing, center, radius) * 0.02
    if beam is None:
        angles = view_angles(240)
        result = parallel_fbp(parallel_project(image, angles, spacing), angles, (160, 160), spacing)
    else:
        angles = view_angles(360, 2 * math.pi)
        result = fan_fbp(fan_project(image, angles, spacing, beam), angles, (160, 160), spacing, beam)
    inside = disk(160, spacing, center, radius - 3) == 1
    outside = disk(160, spacing, center, radius + 3) == 0
    assert_close(result[inside].mean(), torch.tensor(0.02), rtol=0.005, atol=0)
    assert result[inside].std() < 0.0004
    assert result[outside].abs().mean() < 0.0002


@pytest.mark.slow
def test_fan_fbp_of_a_phantom(phantom):
    image = torch.from_numpy(phantom)[None, None]
    angles = view_angles(360, 2 * math.pi)
    result = fan_fbp(fan_project(image, angles, 1.0, FAN), angles, (SIZE, SIZE), 1.0, FAN)
    parallel = parallel_fbp(parallel_project(image, angles[::2] / 2), angles[::2] / 2, (SIZE, SIZE))
    rmse = (result - image).square().mean().sqrt()
    assert rmse < 1.1 * (parallel - image).square().mean().sqrt()
    assert rmse < 0.03


def test_window_removes_high_frequencies():
    sinogram = torch.randn(1, 1, 60, 64)
    angles = view_angles(60)
    sharp = parallel_fbp(sinogram, angles, (64, 64))
    soft = parallel_fbp(sinogram, angles, (64, 64), window=lambda f: torch.exp(-((f / 0.2) ** 2)))
    assert soft.std() < 0.5 * sharp.std()


def test_batch_and_channels_are_independent():
    images = torch.rand(2, 3, 32, 30)
    angles = view_angles(20)
    together = parallel_project(images, angles)
    assert together.shape == (2, 3, 20, 32)
    assert_close(together[1, 2], parallel_project(images[1:, 2:], angles)[0, 0])
    back = parallel_fbp(together, angles, (32, 30))
    assert_close(back[1, 2], parallel_fbp(together[1:, 2:], angles, (32, 30))[0, 0])


def test_gradients_flow():
    image = torch.rand(1, 1, 16, 16, requires_grad=True)
    angles = view_angles(8)
    parallel_fbp(parallel_project(image, angles), angles, (16, 16)).square().sum().backward()
    assert image.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: parallel_project(torch.rand(8, 8), view_angles(4)), "shape"),
        (lambda: parallel_backproject(torch.rand(1, 1, 5, 8), view_angles(4), (8, 8)), "sinogram"),
        (lambda: fan_fbp(torch.rand(1, 1, 4, 8), view_angles(4), (8, 8), 1.0, FAN), "280 detectors"),
        (lambda: fan_project(torch.rand(1, 1, 512, 512), view_angles(4), 2.0, FAN), "outside"),
        (lambda: FanBeam(100.0, 900, 1.0), "180 degrees"),
        (lambda: FanBeam(-1.0), "positive"),
        (lambda: view_angles(0), "at least one"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
