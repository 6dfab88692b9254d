"""Classical methods against blur for single pictures ``(C, X, Y)``; see the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.signal import fftconvolve
from skimage import restoration


def wiener(image: np.ndarray, sigma: float, balance: float, psf: np.ndarray | None = None) -> np.ndarray:
    """Deconvolve (Wiener-Hunt) with a known kernel ``psf``, or a Gaussian of ``sigma`` pixels where none is known."""
    return _deconvolved(image, _kernel(psf, sigma), lambda plane, k: restoration.wiener(plane, k, balance, clip=False))


def unsupervised_wiener(image: np.ndarray, sigma: float, psf: np.ndarray | None = None) -> np.ndarray:
    """As :func:`wiener`, with the balance found by Gibbs sampling, with a fixed seed."""
    return _deconvolved(
        image,
        _kernel(psf, sigma),
        lambda plane, kernel: restoration.unsupervised_wiener(plane, kernel, clip=False, rng=0)[0],
    )


def richardson_lucy(image: np.ndarray, sigma: float, iterations: float, psf: np.ndarray | None = None) -> np.ndarray:
    """Deconvolve for Poisson noise with a known kernel ``psf``, or a Gaussian of ``sigma`` pixels where none is."""
    return _deconvolved(
        np.maximum(image, 0),
        _kernel(psf, sigma),
        lambda plane, kernel: restoration.richardson_lucy(
            plane, kernel, num_iter=round(iterations), clip=False, filter_epsilon=1e-6
        ),
    )


def _kernel(psf: np.ndarray | None, sigma: float) -> np.ndarray:
    """Return the known kernel, or a Gaussian, of odd sides, with a sum of 1."""
    if psf is None:
        offsets = np.arange(-int(np.ceil(3 * sigma)), int(np.ceil(3 * sigma)) + 1)
        line = np.exp(-(offsets**2) / (2 * sigma**2))
        psf = np.outer(line, line)
    psf = np.pad(np.asarray(psf, dtype=np.float64), [(0, 1 - size % 2) for size in psf.shape])
    return psf / psf.sum()


def _deconvolved(
    image: np.ndarray, kernel: np.ndarray, method: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Deconvolve each channel of ``(C, X, Y)``, mirrored at its borders."""
    margins = [min(size - 1, 2 * side) for size, side in zip(image.shape[1:], kernel.shape, strict=True)]
    padded = np.pad(image, [(0, 0), *((margin, margin) for margin in margins)], mode="reflect")
    restored = np.stack([method(_tapered(plane, kernel, margins), kernel) for plane in padded])
    x, y = margins
    return restored[:, x : x + image.shape[1], y : y + image.shape[2]]


def _tapered(plane: np.ndarray, kernel: np.ndarray, margins: Sequence[int]) -> np.ndarray:
    """Let the margins of ``(X, Y)`` go over into the opposite ones, blurred by ``kernel``.

    The methods see a periodic image; a jump from one end to the other would ring far into it.
    """
    around = [(side // 2, side // 2) for side in kernel.shape]
    blurred = fftconvolve(np.pad(plane, around, mode="wrap"), kernel, mode="valid")
    ramps = []
    for size, margin in zip(plane.shape, margins, strict=True):
        rise = np.sin(np.pi / 2 * np.arange(margin) / max(margin, 1)) ** 2
        ramps.append(np.concatenate([rise, np.ones(size - 2 * margin), rise[::-1]]))
    weight = np.outer(*ramps)
    tapered: np.ndarray = weight * plane + (1 - weight) * blurred
    return tapered
