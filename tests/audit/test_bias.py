"""Means of tissues, activity and k-space against values worked out by hand."""

import numpy as np
import pytest
from phantoms import body_phantom
from scipy.integrate import quad
from scipy.ndimage import gaussian_filter

from medrestore_monai.audit.bias import kspace_residual, measure_bias
from medrestore_monai.audit.hot_regions import find_hot_regions, suv_peak
from medrestore_monai.audit.volume import Volume


def by_place(figures):
    return {(one.name, one.region): one for one in figures}


def test_a_shift_of_one_tissue_is_found_in_that_tissue():
    hu = np.repeat(body_phantom(256)[..., None], 2, axis=2)
    noisy = hu + 10 * np.random.default_rng(0).standard_normal(hu.shape)
    fat = np.abs(hu + 100) < 1
    source = Volume(noisy, "CT", (1.2, 1.2, 3.0))
    found = by_place(measure_bias(source, source.like(noisy + 5 * fat)))
    assert found["mean", "fat"].change == pytest.approx(5, abs=0.6)
    assert found["mean", "soft tissue"].change == pytest.approx(0, abs=0.05)
    assert found["mean", "soft tissue"].before == pytest.approx(60, abs=25)
    assert found["mean", "lung"].change == pytest.approx(0, abs=0.01)
    assert all(one.unit == "HU" for one in found.values())


def sphere_volume(spacing, shape, center, radius, high, low):
    place = np.indices(shape).reshape(3, -1).T * spacing
    away = np.linalg.norm(place - np.array(center), axis=1).reshape(shape)
    return np.where(away < radius, high, low).astype(np.float32), away


def test_hot_regions_grow_to_41_percent_or_do_not_leak():
    spacing, shape = (2.0, 2.0, 3.0), (50, 45, 30)
    volume, away = sphere_volume(spacing, shape, (40, 40, 45), 15, 10.0, 1.0)
    other, away2 = sphere_volume(spacing, shape, (80, 70, 45), 8, 4.0, 1.0)
    both = np.maximum(volume, other)
    found = find_hot_regions(both, spacing)
    assert [rule for _, rule in found] == ["41 % of its maximum"] * 2
    assert np.array_equal(found[0][0], away < 15)
    assert np.array_equal(found[1][0], away2 < 8)
    warm = np.where(away < 15, 10.0, 5.0).astype(np.float32)  # a background over 41 %
    mask, rule = find_hot_regions(warm, spacing)[0]
    assert rule == "halfway between background and maximum"
    assert np.array_equal(mask, away < 15)


def test_a_hot_region_is_found_once_and_a_fainter_one_beside_it_too():
    """The blurred edge of a hot region lies above SUV 2.5 as well, and below 41 % of its maximum."""
    spacing, shape = (4.0, 4.0, 4.0), (60, 60, 30)
    places = (((60, 60, 60), 40, 60.0), ((160, 160, 60), 10, 6.0), ((60, 180, 60), 16, 20.0), ((94, 180, 60), 14, 6.0))
    volume = np.full(shape, 0.8, dtype=np.float32)
    for center, radius, high in places:
        volume = np.maximum(volume, sphere_volume(spacing, shape, center, radius, high, 0.8)[0])
    volume = gaussian_filter(volume, 0.85)
    found = find_hot_regions(volume, spacing)
    centers = [4 * np.mean(np.nonzero(mask), axis=1) for mask, _ in found]
    expected = [np.array(places[index][0]) for index in (0, 2, 3, 1)]
    assert len(found) == 4
    assert all(np.abs(one - at).max() < 3 for one, at in zip(centers, expected, strict=True))
    assert sum(mask.astype(int) for mask, _ in found).max() == 1
    assert [rule[:4] for _, rule in found] == ["41 %", "41 %", "70 %", "41 %"]


def test_a_peak_of_noise_is_no_hot_region():
    volume, away = sphere_volume((2.0, 2.0, 3.0), (50, 45, 30), (40, 40, 45), 10, 8.0, 1.0)
    volume[5, 5, 5] = 20
    volume[30:32, 5, 5] = 15
    assert [int(mask.sum()) for mask, _ in find_hot_regions(volume, (2.0, 2.0, 3.0))] == [int((away < 10).sum())]


def test_suv_peak_is_the_mean_of_a_sphere_of_1_ml():
    spacing, sigma = (2.0, 2.2, 2.5), 7.0
    _, away = sphere_volume(spacing, (40, 37, 30), (39.0, 40.3, 38.0), 1, 1, 0)
    blob = 8 * np.exp(-(away**2) / (2 * sigma**2))
    radius = (3000 / (4 * np.pi)) ** (1 / 3)
    mean = 3 / radius**3 * quad(lambda r: 8 * np.exp(-(r**2) / (2 * sigma**2)) * r**2, 0, radius)[0]
    flat = 1 - (np.array(spacing) ** 2).sum() / 24 / sigma**2  # voxels are constant within: 1.3 % less
    assert suv_peak(blob, blob > 4, spacing) == pytest.approx(flat * mean, rel=0.004)
    assert suv_peak(blob[..., :3], blob[..., :3] > 0, spacing) is None  # three slices are too thin


def test_pet_in_bq_per_ml_is_measured_in_suv_and_its_activity_in_bq():
    spacing = (2.0, 2.0, 3.0)
    suv, away = sphere_volume(spacing, (50, 45, 30), (50, 45, 45), 14, 8.0, 1.0)
    source = Volume(suv / 2e-4, "PT", spacing, "Bq/ml", suv_factor=2e-4)
    found = by_place(measure_bias(source, source.like(np.where(away < 14, 0.9, 1.0) * suv / 2e-4)))
    assert found["SUVmean", "hot region 1"].before == pytest.approx(8)
    assert found["SUVmean", "hot region 1"].after == pytest.approx(7.2)
    assert found["SUVmax", "hot region 1"].after == pytest.approx(7.2)
    assert found["SUVpeak", "hot region 1"].before == pytest.approx(8, rel=1e-3)
    total = found["total activity", "whole volume"]
    assert total.unit == "Bq"
    assert total.before == pytest.approx(suv.sum() / 2e-4 * 12 / 1000)


def test_pet_without_suv_says_so():
    source = Volume(np.full((20, 20, 5), 100.0), "PT", unit="Bq/ml")
    found = measure_bias(source, source)
    assert "SUV per unit" in found[-1].not_measured


def zero_filled(shape, kept, seed=0):
    """An image whose k-space holds ``kept`` lines along each axis."""
    rng = np.random.default_rng(seed)
    masks = [np.abs(np.fft.fftfreq(size, 1 / size)) <= lines // 2 for size, lines in zip(shape, kept, strict=True)]
    band = np.outer(*masks)
    smooth = np.fft.ifft2(np.fft.fft2(rng.standard_normal(shape)) * band).real
    return 500 + 100 * smooth, band


def test_the_residual_over_the_measured_k_space_of_mr():
    image, band = zero_filled((64, 75), (31, 41))
    source = Volume(image, "MR")
    beyond = np.fft.ifft2(np.fft.fft2(np.random.default_rng(1).standard_normal(image.shape)) * ~band).real
    added = kspace_residual(source, source.like(image + 10 * beyond))
    assert added.after == pytest.approx(0, abs=1e-5)
    assert added.region == "31 of 64 x 41 of 75 lines"
    assert kspace_residual(source, source.like(1.02 * image)).after == pytest.approx(0.02, rel=1e-3)
    rounded = source.like(np.rint(image))
    assert kspace_residual(rounded, rounded).region == "31 of 64 x 41 of 75 lines"


def test_mr_whose_k_space_is_full_does_not_show_what_was_measured():
    image = np.random.default_rng(0).standard_normal((64, 64)) * 50 + 500
    assert "no empty border" in kspace_residual(Volume(image, "MR"), Volume(image, "MR")).not_measured
