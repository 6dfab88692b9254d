"""The noise figures against spectra that are known."""

from dataclasses import replace

import numpy as np
import pytest
from noise_fields import correlated_noise
from scipy.ndimage import gaussian_filter

from medrestore_monai.audit.faithfulness import measure_faithfulness, noise_spread
from medrestore_monai.audit.noise import measure_noise
from medrestore_monai.audit.regions import CT_CLASSES, flat_mask, smoothed
from medrestore_monai.audit.spectrum import find_squares, spectrum_of_islands, spectrum_of_squares
from medrestore_monai.audit.volume import Volume

PIXEL = 0.7


def true_figures(radius, power):
    peak = radius.ravel()[np.argmax(power)]
    return float(peak), float((radius * power).sum() / power.sum())


@pytest.mark.parametrize("cutoff", [0.35, 0.6, 0.8])
def test_area_peak_and_mean_frequency_of_known_noise(cutoff):
    noise, radius, power = correlated_noise((300, 290, 4), PIXEL, cutoff, 20.0, seed=1)
    spectrum = spectrum_of_squares(noise, find_squares(np.ones(noise.shape, bool)), (PIXEL, PIXEL))
    assert spectrum.regions >= 32
    peak, mean = true_figures(radius, power)
    assert spectrum.area == pytest.approx(400, rel=0.05)
    assert spectrum.peak == pytest.approx(peak, abs=0.02)
    assert spectrum.mean_frequency == pytest.approx(mean, rel=0.03)


def test_the_spectrum_of_white_noise_is_flat_and_of_its_variance():
    noise = np.random.default_rng(0).standard_normal((257, 200, 6)) * 3
    spectrum = spectrum_of_squares(noise, find_squares(np.ones(noise.shape, bool)), (0.5, 0.8))
    assert spectrum.area == pytest.approx(9, rel=0.02)
    frequency, power = spectrum.rings()
    assert frequency[-1] == pytest.approx(0.5 / 0.8, rel=0.03)
    assert power[3:] == pytest.approx(np.full(len(power) - 3, 9 * 0.5 * 0.8), rel=0.12)


@pytest.mark.slow
def test_islands_give_the_same_spectrum_as_squares():
    noise, radius, power = correlated_noise((256, 256, 4), PIXEL, 0.5, 20.0, seed=2)
    mask = np.zeros(noise.shape, bool)
    for x in range(4, 240, 18):
        for y in range(3, 230, 25):
            mask[x : x + 12, y : y + 18] = True
    spectrum = spectrum_of_islands(noise + 7, mask, (PIXEL, PIXEL))
    peak, mean = true_figures(radius, power)
    assert spectrum.has_peak
    assert spectrum.area == pytest.approx(400, rel=0.05)
    assert spectrum.mean_frequency == pytest.approx(mean, rel=0.04)
    assert spectrum.peak == pytest.approx(peak, abs=0.03)


def phantom(noise):
    x, y = np.indices(noise.shape[:2])
    body = np.hypot(x - noise.shape[0] / 2, (y - noise.shape[1] / 2) * 1.2) < 0.45 * noise.shape[0]
    return np.where(body, 40.0, -1000.0)[..., None] + noise * body[..., None]


@pytest.mark.slow
def test_noise_is_measured_in_the_flat_part_of_the_body_that_is_found():
    noise, _, _ = correlated_noise((320, 301, 4), PIXEL, 0.5, 20.0, seed=3)
    source = Volume(phantom(noise), "CT", (PIXEL, PIXEL, 2.0))
    found = measure_noise(source, source.like(phantom(0.5 * noise)))
    sd, area, mean, peak = found.figures
    assert (sd.region, sd.unit, area.unit, peak.unit) == ("flat soft tissue", "HU", "(HU)^2", "1/mm")
    assert sd.before == pytest.approx(20, rel=0.03)
    assert area.before == pytest.approx(400, rel=0.05)
    assert sd.after == pytest.approx(sd.before / 2, rel=0.01)
    assert sd.ci95[0] < sd.after < sd.ci95[1]
    assert mean.after == pytest.approx(mean.before, rel=0.01)
    assert set(found.curves) == {"before", "after"}


def test_pure_noise_stays_flat_and_a_slope_does_not():
    noise, _, _ = correlated_noise((256, 256, 1), PIXEL, 0.5, 20.0, seed=4)
    level = np.zeros(noise.shape)
    everywhere = np.ones(noise.shape, bool)
    smooth = smoothed(level + noise, (PIXEL, PIXEL))
    inside = flat_mask(smooth, everywhere, (PIXEL, PIXEL))[12:-12, 12:-12]
    assert inside.mean() > 0.85
    level[128:] = 6 * np.arange(128)[:, None, None]
    flat = flat_mask(smoothed(level + noise, (PIXEL, PIXEL)), everywhere, (PIXEL, PIXEL))
    assert flat[150:240].mean() < 0.02 < 0.5 < flat[20:110, 20:-20].mean()


def test_pet_noise_is_relative_to_the_local_mean():
    rng = np.random.default_rng(5)
    level = np.linspace(2, 6, 96)[:, None, None] * np.ones((96, 96, 8))
    noisy = level * (1 + 0.1 * rng.standard_normal(level.shape))
    source = Volume(noisy, "PT", (2.0, 2.0, 3.0))
    found = measure_noise(source, source.like(level))
    assert found.figures[0].unit == "1"
    assert found.figures[0].before == pytest.approx(0.1, rel=0.05)
    assert found.figures[0].after < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("grain", [2.5, 4.0])
def test_coarse_pet_noise_that_the_local_mean_hides_is_given_back(grain):
    """White noise behind a Gaussian of known width: its size, and what Gaussians leave of it."""
    pixel, size = 3.0, 0.05
    white = np.random.default_rng(0).standard_normal((120, 113, 6))
    noise = gaussian_filter(white, (grain / pixel, grain / pixel, 0))
    level = np.interp(np.arange(120), [0, 30, 45, 85, 100, 119], [2, 2, 4, 4, 7, 7])[:, None, None]  # three tissues
    source = Volume(level * (1 + size * noise / noise.std()), "PT", (pixel, pixel, 3.0))
    found = measure_noise(source, source)
    measured, fitted = (np.sqrt(one.area) for one in (found.spectra["before"], found.of_source))
    assert measured < 0.75 * size
    assert fitted == pytest.approx(size, rel=0.2)  # the calmest parts are taken for flat
    smooth = gaussian_filter(size * noise / noise.std(), (1, 1, 0))
    stated = measure_noise(source, source.like(level * (1 + smooth))).figures[0]
    assert stated.before == pytest.approx(np.sqrt(found.of_source.area))
    assert stated.after == pytest.approx(smooth[12:-12, 12:-12].std(), rel=0.35)
    assert "a Gaussian fitted" in stated.method
    for width in (1.0, 2.5, 4.0):
        left = float(gaussian_filter(noise, (width, width, 0))[12:-12, 12:-12].std() / noise.std())
        assert noise_spread(found.of_source, width) == pytest.approx(left, rel=0.15)
    flat = source.like(level * np.ones(source.array.shape))
    unfitted = replace(found, of_source=found.spectra["before"])
    fitted, before = (measure_faithfulness(source, flat, one).count for one in (found, unfitted))
    assert fitted <= 2 * source.slices  # noise that is taken away raises few flags
    assert before > 10 * fitted


def test_nothing_to_measure_is_said():
    source = Volume(np.full((40, 40, 2), -1000.0), "CT")
    found = measure_noise(source, source)
    assert all(figure.after is None and "nothing to measure" in figure.not_measured for figure in found.figures)
    assert not found.curves
    assert found.of_source is None
    even = Volume(np.zeros((60, 60, 2)), "CT")
    assert measure_noise(even, even).of_source is None  # flat, and no noise
    assert [one.name for one in CT_CLASSES] == ["lung", "fat", "soft tissue", "bone"]
