"""Kernels of the blurs: of sum 1, with their center of mass in the middle of an odd square, so that nothing is shifted.

All but the one of a bent path are point symmetric. Lengths are in pixels. Angles are in degrees, from the first spatial
axis towards the second.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = [
    "DIVISORS",
    "SHARPEST",
    "WIDEST",
    "anisotropic_gaussian_kernel",
    "bent_path",
    "disk_kernel",
    "gaussian_kernel",
    "linear_motion_kernel",
    "motion_kernel",
    "path_kernel",
]

_NEGLIGIBLE = 1e-9  # weights below are left out: what rounding leaves of a corner that is just touched
_REACH = 4.0  # standard deviations
_TURNS = 8  # pieces of a bent path with a curvature of their own
_STEPS = 16  # points of a path per pixel of its length
SHARPEST = 0.5  # pixels, of a Gaussian along two axes: narrower ones cannot be sampled at any angle
DIVISORS = ("sum", "length")
WIDEST = 1000  # pixels, of length and sigma: far beyond any blur, and a bound for time and memory


def motion_kernel(length: int, angle: float, divisor: str = "sum") -> np.ndarray:
    """Motion kernel of MedDeblur: the diagonal of a square, rotated about its middle, and divided.

    The rotation samples the ``length`` x ``length`` unit matrix bilinearly. What leaves the square is cut off, so an
    angle of 0 blurs along the diagonal over ``sqrt(2) * length`` pixels, -45 and 45 along an axis over ``length``.

    An even length gets a square one pixel wider, to have a middle pixel; without it the image would move by half a
    pixel and the clean image no longer lie under it.

    Args:
        length: side of the square in pixels, at least 1, which changes nothing; the paper's code draws 20..45.
        angle: of the rotation, in degrees; the paper draws -45..45.
        divisor: ``sum``, ours: the kernel sums to 1 and keeps the brightness. ``length``, as algorithm 1 and the
            paper's code have it: what was cut off is missing, so that the sum goes from 1 at 0 degrees down to 0.71 at
            45, 0.8 on average, and pictures get darker.

    Returns:
        Weights, float64, shape ``(length | 1, length | 1)``.

    Raises:
        ValueError: the length is no whole number of 1 to 1000, the angle is not finite, or the divisor is unknown.

    References:
        Sharif et al., MedDeblur: Medical Image Deblurring with Residual Dense Spatial-Asymmetric Attention,
        algorithm 1, https://doi.org/10.3390/math11010115
    """
    if not 1 <= length <= WIDEST or int(length) != length or not math.isfinite(angle):
        raise ValueError(f"length must be a whole number of 1 to {WIDEST} pixels, got {length} at {angle} degrees.")
    if divisor not in DIVISORS:
        raise ValueError(f"divisor must be one of {', '.join(DIVISORS)}, got {divisor!r}.")
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
    share = kernel.sum() / length
    return _normalized(kernel) * (share if divisor == "length" else 1.0)


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


def anisotropic_gaussian_kernel(sigma_along: float, sigma_across: float, angle: float) -> np.ndarray:
    """Sampled Gaussian of two widths, cut off at 4 standard deviations of the wider one.

    Args:
        sigma_along: standard deviation in pixels in the direction of ``angle``, 0.5 to 1000; 0 for both changes
            nothing.
        sigma_across: the same at a right angle to it.
        angle: in degrees; 0 is along the first spatial axis, 90 along the second.

    Returns:
        Weights, float64, shape ``(2 * reach + 1, 2 * reach + 1)`` with ``reach = round(4 * max(sigmas))``.

    Raises:
        ValueError: a standard deviation is out of range, or the angle not finite.
    """
    sigmas = (sigma_along, sigma_across)
    if not (all(SHARPEST <= one <= WIDEST for one in sigmas) or sigmas == (0, 0)) or not math.isfinite(angle):
        raise ValueError(
            f"sigma_along and sigma_across must be {SHARPEST} to {WIDEST} pixels, or 0 both, got {sigma_along} and "
            f"{sigma_across} at {angle} degrees."
        )
    if sigmas == (0, 0):
        return np.ones((1, 1))
    reach = int(_REACH * max(sigmas) + 0.5)
    x: np.ndarray = np.arange(-reach, reach + 1)
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    along, across = cosine * x[:, None] + sine * x[None, :], cosine * x[None, :] - sine * x[:, None]
    square = (along / sigma_along) ** 2 + (across / sigma_across) ** 2
    return _normalized(np.exp(-square / 2))


def disk_kernel(radius: float) -> np.ndarray:
    """Defocus of a lens with a round aperture: a uniform disk, each pixel weighted by the part of it that is covered.

    Args:
        radius: in pixels, 0 to 1000; up to 0.5 the disk lies in one pixel and changes nothing.

    Returns:
        Weights, float64, an odd square that holds the disk.

    Raises:
        ValueError: the radius is out of range.
    """
    if not 0 <= radius <= WIDEST:
        raise ValueError(f"radius must be 0 to {WIDEST} pixels, got {radius}.")
    half = math.ceil(max(radius - 0.5, 0))
    if half == 0:
        return np.ones((1, 1))
    edges = np.arange(-half, half + 2) - 0.5
    corner = _quarter_disk(np.abs(edges)[:, None], np.abs(edges)[None, :], radius)
    area = corner * np.sign(edges)[:, None] * np.sign(edges)[None, :]  # of the disk between the middle and a corner
    return _normalized(np.diff(np.diff(area, axis=0), axis=1))


def bent_path(length: float, bend: float, angle: float, seed: int) -> np.ndarray:
    """Draw a smooth path of constant speed: its direction is a random walk, so its curvature changes along the way.

    Args:
        length: along the path, in pixels, 0 to 1000.
        bend: root mean square of the direction about its mean, in degrees, 0 to 180; 0 is straight.
        angle: mean direction in degrees; 0 is along the first spatial axis, 90 along the second.
        seed: of the random walk.

    Returns:
        Points at equal distances with their center of mass at 0, in pixels, shape ``(N, 2)``.

    Raises:
        ValueError: a value is out of range.
    """
    if not 0 <= length <= WIDEST:
        raise ValueError(f"length must be 0 to {WIDEST} pixels, got {length}.")
    if not 0 <= bend <= 180 or not math.isfinite(angle):
        raise ValueError(f"bend must be 0 to 180 degrees and angle finite, got {bend} and {angle}.")
    count = math.ceil(_STEPS * length) + 1
    walk: np.ndarray = np.cumsum(np.random.RandomState(seed).normal(size=_TURNS + 1))
    turned = np.interp((np.arange(count) + 0.5) * _TURNS / count, np.arange(_TURNS + 1), walk)
    turned -= turned.mean()
    spread = math.sqrt(np.mean(turned**2))
    direction = np.radians(angle + (turned * bend / spread if spread > 0 else turned))
    steps = np.stack([np.cos(direction), np.sin(direction)], axis=1) * (length / count)
    path: np.ndarray = np.cumsum(steps, axis=0)
    return path - path.mean(axis=0)


def path_kernel(path: np.ndarray) -> np.ndarray:
    """Motion along any path: each point adds the same weight, shared by the four pixels around it (bilinear).

    Args:
        path: points in pixels, one for each equal interval of time, shape ``(N, 2)``; (0, 0) is the middle of the
            middle pixel.

    Returns:
        Weights, float64, an odd square that holds the path. Its center of mass is that of the path.

    Raises:
        ValueError: the path has another shape, or leaves 1000 pixels.
    """
    if path.ndim != 2 or path.shape[1] != 2 or not len(path) or not np.abs(path).max() <= WIDEST:
        raise ValueError(f"path must be points (N, 2) within {WIDEST} pixels, got the shape {path.shape}.")
    half = math.ceil(np.abs(path).max())
    corner = np.floor(path).astype(int)
    share = path - corner
    kernel = np.zeros((2 * half + 2, 2 * half + 2))  # one more for shares of 0
    for x in (0, 1):
        for y in (0, 1):
            weight = np.abs(1 - x - share[:, 0]) * np.abs(1 - y - share[:, 1])
            np.add.at(kernel, (corner[:, 0] + half + x, corner[:, 1] + half + y), weight)
    whole: np.ndarray = kernel[:-1, :-1] / len(path)
    return whole


def _quarter_disk(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Area of a disk about 0 within the rectangle from 0 to ``(x, y)``, both not negative."""
    x, y = np.minimum(x, radius), np.minimum(y, radius)
    squared = np.square(radius)  # not radius**2: its last bit may differ from that of an array's square
    bound = np.minimum(np.sqrt(squared - y**2), x)  # up to here the rectangle is filled, from here the circle bounds
    below_arc = [(t * np.sqrt(squared - t**2) + squared * np.arcsin(t / radius)) / 2 for t in (bound, x)]
    area: np.ndarray = y * bound + below_arc[1] - below_arc[0]
    return area


def _normalized(kernel: np.ndarray) -> np.ndarray:
    """Sum 1, point symmetric to the last bit, without negligible weights."""
    kernel = kernel + kernel[::-1, ::-1]
    kernel = np.where(kernel < _NEGLIGIBLE * kernel.max(), 0.0, kernel)
    whole: np.ndarray = kernel / kernel.sum()
    return whole
