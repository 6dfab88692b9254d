"""Noise of a known spectrum, and images of a known transfer function, for the tests of the audit."""

import numpy as np


def correlated_noise(shape, pixel, cutoff, sd, seed):
    """Noise ``(X, Y, Z)``, a ramp under a Gaussian, as of CT; also its spectrum on the grid of the FFT."""
    axes = [np.fft.fftfreq(size, pixel) for size in shape[:2]]
    radius = np.hypot(*np.meshgrid(*axes, indexing="ij"))
    power = (radius + 0.02) * np.exp(-2 * (radius / cutoff) ** 2)
    power *= sd**2 / power.mean()  # the mean of |filter|^2 is the variance of filtered white noise
    white = np.random.default_rng(seed).standard_normal(shape)
    spectrum = np.fft.fft2(white, axes=(0, 1)) * np.sqrt(power)[..., None]
    return np.fft.ifft2(spectrum, axes=(0, 1)).real.astype(np.float32), radius, power


def blurred(image, pixel, sigma):
    """Blur slices ``(X, Y, ...)`` with a Gaussian of ``sigma`` mm, exactly, by its transfer function."""
    axes = [np.fft.fftfreq(size, pixel) for size in image.shape[:2]]
    radius = np.hypot(*np.meshgrid(*axes, indexing="ij"))
    gain = np.exp(-2 * (np.pi * sigma * radius) ** 2)
    gain = gain.reshape(*gain.shape, *[1] * (image.ndim - 2))
    return np.fft.ifft2(np.fft.fft2(image, axes=(0, 1)) * gain, axes=(0, 1)).real.astype(np.float32)
