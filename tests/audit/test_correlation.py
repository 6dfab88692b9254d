"""Fourier ring correlation of patches: against its formula, linear filters, and noise of a known ratio."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medrestore_monai.audit import Volume
from medrestore_monai.audit.correlation import agreement, ring_correlation

PIXEL = (0.8, 0.8)


def test_it_is_the_formula():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 12, 12))
    frequency, found = ring_correlation(a, b, PIXEL)
    window = np.hanning(13)[:-1, None] * np.hanning(13)[:-1]
    for n in range(3):
        x, y = (np.fft.fft2((p[n] - p[n].mean()) * window) for p in (b, a))
        for ring in range(1, 7):
            inside = np.zeros((12, 12), dtype=bool)
            for i in range(12):
                for j in range(12):
                    radius = np.hypot(min(i, 12 - i), min(j, 12 - j))
                    inside[i, j] = ring - 0.5 <= radius < ring + 0.5
            expected = (x * y.conj()).real[inside].sum()
            expected /= np.sqrt((abs(x) ** 2)[inside].sum() * (abs(y) ** 2)[inside].sum())
            assert found[n, ring] == pytest.approx(expected, abs=1e-9)
            assert frequency[ring] == pytest.approx(ring / (12 * 0.8))


def test_a_linear_filter_leaves_it_at_1_and_an_invention_does_not():
    image = 100 * gaussian_filter(np.random.default_rng(1).normal(size=(201, 193)), 1.0)
    reference = Volume(image, "GRAY", (*PIXEL, 1.0))
    nyquist = 0.5 / PIXEL[0]
    np.testing.assert_allclose(agreement(reference, reference), nyquist)
    blurred = reference.like(gaussian_filter(image, 0.7, mode="wrap"))
    assert agreement(reference, blurred).mean() > 0.95 * nyquist
    invented = reference.like(image + 200 * gaussian_filter(np.random.default_rng(2).normal(size=image.shape), 0.5))
    assert agreement(reference, invented).mean() < 0.5 * nyquist


@pytest.mark.slow
def test_white_noise_ends_the_agreement_where_its_power_is_three_times_that_of_the_image():
    """The correlation of an image with itself under noise is 1 / sqrt(1 + N / S), which is 0.5 for N = 3 S."""
    rng, sigma = np.random.default_rng(3), 1.5  # pixels
    image = gaussian_filter(rng.normal(size=(512, 480)), sigma, mode="wrap")
    noise = 0.05 * rng.normal(size=image.shape)
    # S = exp(-(2 pi f sigma)^2), N = 0.05^2, f in 1/px
    expected = np.sqrt(-np.log(0.05**2 / 3)) / (2 * np.pi * sigma) / PIXEL[0]
    reference = Volume(image, "GRAY", (*PIXEL, 1.0))
    found = agreement(reference, reference.like(image + noise))
    assert found.mean() == pytest.approx(expected, abs=1.0 / (64 * PIXEL[0]))


@pytest.mark.parametrize("shape", [(1, 1), (31, 70), (33, 32)])
def test_small_images(shape):
    image = Volume(np.random.default_rng(0).normal(size=shape), "GRAY")
    assert len(agreement(image, image)) == (0 if min(shape) < 32 else 1)
