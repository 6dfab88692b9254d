"""Kernels of the blurs: point symmetric about the middle of an odd square, so that nothing is shifted; of sum 1.

Lengths are in pixels. Angles are in degrees, from the first spatial axis towards the second.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["WIDEST", "gaussian_kernel", "linear_motion_kernel", "motion_kernel"]

_NEGLIGIBLE = 1e-9  # weights below are left out: what rounding leaves of a corner that is just touched
_REACH = 4.0  # standard deviations
WIDEST = 1000  # pixels, of length and sigma: far beyond any blur, and a bound for time and memory


def motion_kernel(length: int, angle: float) -> np.ndarray:
    """Motion kernel of MedDeblur: the diagonal of a square, rotated about its middle, normalized to sum 1.

    The rotation samples the ``length`` x ``length`` unit matrix bilinearly. What leaves the square is cut off, so an
    angle of 0 blurs along the diagonal over ``sqrt(2) * length`` pixels, -45 and 45 along an axis over ``length``.

    An even length gets a square one pixel wider, to have a middle pixel; without it the image would move by half a
    pixel and the clean image no longer lie under it.

    Args:
        length: side of the square in pixels, at least 1, which changes nothing; the paper's code draws 20..45.
        angle: of the rotation, in degrees; the paper draws -45..45.

    Returns:
        Weights, float64, shape ``(length | 1, length | 1)``.

    Raises:
        ValueError: the length is no whole number of 1 to 1000, or the angle is not finite.

    References:
        Sharif et al., MedDeblur: Medical Image Deblurring with Residual Dense Spatial-Asymmetric Attention,
        algorithm 1, https://doi.org/10.3390/math11010115
    """
    if not 1 <= length <= WIDEST or int(length) != length or not math.isfinite(angle):
        raise ValueError(f"length must be a whole number of 1 to {WIDEST} pixels, got {length} at {angle} degrees.")
    length = int(length)
    if length == 1:
        return np.ones((1, 1))
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x: np.ndarray = np.arange(length | 1) - (length | 1) // 2
    middle = (length - 1) / 2
    # where in the unit matrix a pixel of the kernel comes from
    row = cosine * x[:, None] + sine * x[None, :] + middle
    column = cosine * x[None, :] - sine * x[:, None] + middle
    kernel = np.zeros(row.shape)
    for r in (np.floor(row), np.floor(row) + 1):
        for c in (np.floor(column), np.floor(column) + 1):
            on_diagonal = (r == c) & (r >= 0) & (r < length)
            kernel += on_diagonal * (1 - np.abs(row - r)) * (1 - np.abs(column - c))
    return _normalized(kernel)


def linear_motion_kernel(length: float, angle: float) -> np.ndarray:
    """Uniform motion along a straight path: the weight of a pixel is the share of the path that lies in it.

    Args:
        length: of the path in pixels, at least 1, which changes nothing: the path lies in one pixel.
        angle: of the path in degrees; 0 is along the first spatial axis, 90 along the second.

    Returns:
        Weights, float64, an odd square that holds the path.

    Raises:
        ValueError: the length is not 1 to 1000, or the angle not finite.
    """
    if not 1 <= length <= WIDEST or not math.isfinite(angle):
        raise ValueError(f"length must be 1 to {WIDEST} pixels, got {length} at {angle} degrees.")
    direction = np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    half = math.ceil((length - 1) / 2)
    edges = np.arange(-half - 1, half + 1) + 0.5  # between the pixels
    crossings = np.concatenate([edges / part for part in direction if part != 0] + [[-length / 2, length / 2]])
    along = np.sort(crossings[np.abs(crossings) <= length / 2])
    # a path may end on the edge of the outermost pixel: what rounding puts behind it has no length
    pixels = np.rint((along[1:] + along[:-1])[:, None] / 2 * direction).clip(-half, half).astype(int) + half
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    np.add.at(kernel, (pixels[:, 0], pixels[:, 1]), np.diff(along))
    return _normalized(kernel)


def gaussian_kernel(sigma: float) -> np.ndarray:
    """Sampled Gaussian, cut off at 4 standard deviations; the blur of an image is this along each axis.

    Args:
        sigma: standard deviation in pixels; 0 changes nothing.

    Returns:
        Weights, float64, shape ``(2 * round(4 * sigma) + 1,)``.

    Raises:
        ValueError: sigma is not 0 to 1000.
    """
    if not 0 <= sigma <= WIDEST:
        raise ValueError(f"sigma must be 0 to {WIDEST} pixels, got {sigma}.")
    reach = int(_REACH * sigma + 0.5)
    if reach == 0:
        return np.ones(1)
    weights: np.ndarray = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return weights / weights.sum()


def _normalized(kernel: np.ndarray) -> np.ndarray:
    """Sum 1, point symmetric to the last bit, without negligible weights."""
    kernel = kernel + kernel[::-1, ::-1]
    kernel = np.where(kernel < _NEGLIGIBLE * kernel.max(), 0.0, kernel)
    whole: np.ndarray = kernel / kernel.sum()
    return whole
