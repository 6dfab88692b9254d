"""Noise along the axis: unit variance, the correlation of a Gaussian, the same for slice, slab and volume."""

import math
import weakref

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from medrestore_monai.neighbors import HALO
from medrestore_monai.transforms import (
    FixedDegradationd,
    PETLowCount,
    RandPETLowCountd,
    SimulatePETLowCountd,
    axial_noise,
    insert_pet_noise,
)
from medrestore_monai.transforms.axial_noise import axial_weights, axial_width, correlation_of, white_slices

SIZE = (61, 70)


@pytest.mark.parametrize(("width", "distance"), [(5.0, 3.3), (9.0, 2.0), (4.0, 4.0), (30.0, 1.0)])
def test_weights_are_those_of_a_gaussian_filter(width, distance):
    impulse = np.zeros(301)
    impulse[150] = 1
    filtered = ndimage.gaussian_filter1d(impulse, width / math.sqrt(8 * math.log(2)) / distance, truncate=6)
    filtered /= np.linalg.norm(filtered)
    weights = np.array(axial_weights(width, distance))
    assert np.sum(weights**2) == pytest.approx(1)
    reach = len(weights) // 2
    np.testing.assert_allclose(filtered[150 - reach : 151 + reach], weights, atol=0.01)


def test_without_width_or_distance_slices_are_independent():
    assert axial_weights(0, 3) == axial_weights(5, 0) == (1.0,)
    for wrong in ((-1, 3), (1, -3), (math.inf, 1)):
        with pytest.raises(ValueError, match="at least 0"):
            axial_weights(*wrong)
    with pytest.raises(ValueError, match=r"too great for slices 0\.01 mm apart"):
        axial_weights(50, 0.01)


@pytest.mark.parametrize("correlation", [0.0, 0.19, 0.46, 0.8])
def test_width_gives_the_correlation(correlation):
    width = axial_width(correlation, 5.0)
    assert correlation_of(axial_weights(width, 5.0)) == pytest.approx(correlation, abs=1e-3)
    with pytest.raises(ValueError, match=r"correlation must be in 0\.\.0\.95"):
        axial_width(1.0, 5.0)


def test_noise_has_the_variance_and_the_correlation():
    weights = axial_weights(5.0, 3.3)
    noise = white_slices(7, range(-20, 20), SIZE, weights).astype(np.float64)
    assert noise.dtype == np.float64
    assert noise.shape == (40, *SIZE)
    assert noise.std() == pytest.approx(1, abs=0.01)
    for lag in (1, 2, 5):
        measured = np.mean(noise[lag:] * noise[:-lag])
        assert measured == pytest.approx(correlation_of(weights, lag), abs=0.015)
    within = np.mean(noise[:, 1:] * noise[:, :-1])
    assert abs(within) < 0.01


def test_slice_slab_and_volume_have_the_same_noise():
    weights = axial_weights(6.0, 3.0)
    volume = white_slices(3, range(10), SIZE, weights)
    np.testing.assert_array_equal(white_slices(3, range(4, 8), SIZE, weights), volume[4:8])
    np.testing.assert_array_equal(white_slices(3, [8, 8, 2], SIZE, weights), volume[[8, 8, 2]])
    assert not np.array_equal(white_slices(4, [2], SIZE, weights)[0], volume[2])
    with pytest.raises(ValueError, match="odd count"):
        white_slices(0, [0], SIZE, (0.5, 0.5))


def test_noise_of_a_long_volume_keeps_few_fields_at_a_time(monkeypatch):
    drawn, most = weakref.WeakValueDictionary(), []
    field = axial_noise._field

    def watched(seed, number, size):
        assert number not in drawn  # still kept
        drawn[number] = made = field(seed, number, size)
        most.append(len(drawn))
        return made

    monkeypatch.setattr(axial_noise, "_field", watched)
    weights = axial_weights(5.0, 3.3)
    white_slices(0, range(50), (8, 8), weights)
    assert len(most) == 50 + len(weights) - 1  # each was drawn once
    assert max(most) <= len(weights) + 1


@pytest.fixture
def volume():
    x, y, z = torch.meshgrid(torch.arange(41.0), torch.arange(38.0), torch.arange(7.0), indexing="ij")
    return (2 + torch.sin(x / 7) + torch.cos(y / 5 + z / 3))[None]


def test_low_count_pet_agrees_for_slice_slab_and_volume(volume):
    affine = torch.diag(torch.tensor([4.0, 4.0, 3.3, 1.0], dtype=torch.float64))
    degrade = FixedDegradationd(SimulatePETLowCountd("image", drf=6, axial_width=6))

    def run(values, halo=(0, 0), **more):
        image = MetaTensor(values, affine=affine, meta={HALO: halo})
        return degrade({"image": image, "name": "a", **more})["image"].as_tensor()

    whole = run(volume)
    assert whole.shape == volume.shape
    assert torch.equal(run(volume[..., 2:6], start=2, stop=6), whole[..., 2:6])
    assert torch.equal(run(volume[..., 1:6], start=2, stop=4, halo=(1, 2)), whole[..., 1:6])  # read with neighbors
    assert torch.equal(run(volume[..., 5], slice=5), whole[..., 5])
    relative = (whole / volume).log()
    neighbors = torch.corrcoef(torch.stack([relative[..., 3].flatten(), relative[..., 4].flatten()]))[0, 1]
    assert neighbors == pytest.approx(correlation_of(axial_weights(6.0, 3.3)), abs=0.12)


@pytest.mark.parametrize("wrong", [-1.0, 101.0, math.inf, math.nan])
def test_an_axial_width_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match=r"axial_width must be in 0\.\.100 mm"):
        SimulatePETLowCountd("image", axial_width=wrong)
    if wrong != wrong or wrong > 100:
        with pytest.raises(ValueError, match="axial_width must"):
            RandPETLowCountd("image", axial_width=(1.0, wrong))


def test_numbers_must_fit_the_slices(volume):
    with pytest.raises(ValueError, match="need as many numbers"):
        insert_pet_noise(volume, None, 4.0, PETLowCount(4), [1, 2])
