"""The spectra of ``scripts/experiments/noise_texture.py``: white and smoothed noise, whose spectra are known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from script_loading import load_script


@pytest.fixture(scope="module")
def script():
    return load_script("experiments/noise_texture.py")


def spectrum_of(script, noise, spacing=(0.7, 0.7)):
    spectrum = script.Spectrum.empty()
    for square in script.squares(np.ones(noise.shape, bool)):
        spectrum.add(noise[square], spacing)
    return spectrum


def test_white_noise_has_the_level_of_its_variance(script):
    noise = 3 + 20 * np.random.default_rng(0).standard_normal((516, 389))
    spectrum = spectrum_of(script, noise)
    assert spectrum.numbers()["SD"] == pytest.approx(20, rel=0.02)
    # away from 0, where the mean was taken out
    used = (spectrum.count > 0) & (script.CENTERS > 0.1)
    np.testing.assert_allclose(spectrum.radial[used], 400 * 0.49, rtol=0.15)


def test_smoothed_noise_has_the_spectrum_of_its_filter(script):
    noise = gaussian_filter(np.random.default_rng(1).standard_normal((516, 389)), 1.5, mode="wrap")
    spectrum = spectrum_of(script, noise)
    expected = 0.49 * np.exp(-((2 * np.pi * 1.5 * script.CENTERS * 0.7) ** 2))
    used = (spectrum.count > 0) & (script.CENTERS > 0.06) & (script.CENTERS < 0.3)
    np.testing.assert_allclose(spectrum.radial[used], expected[used], rtol=0.2)
    below = 1 - np.exp(-((2 * np.pi * 1.5 * 0.2 * 0.7) ** 2))  # the integral of that Gaussian over a disk
    assert spectrum.numbers()["low"] == pytest.approx(below, abs=0.03)
    assert spectrum.numbers()["mean"] < 0.15


def test_squares_lie_in_the_mask(script):
    mask = np.zeros((130, 100), bool)
    mask[20:100, 10:90] = True
    found = script.squares(mask)
    assert found
    assert all(mask[square].mean() >= 0.9 for square in found)
    assert not script.squares(np.zeros((130, 100), bool))
