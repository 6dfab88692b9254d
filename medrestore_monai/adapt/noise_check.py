"""Does drawn noise look like that of the image? Compared in a compact band, in flat regions, slice by slice and block.

The band is the difference of two Gaussians, of 0.6 and 1.2 pixels: a filter without ringing that sees neither the
slow part of anatomy nor single pixels. Spreads are median absolute deviations, which vessels hardly move; of blocks,
which have few pixels, standard deviations of what lies within three of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

WIDTHS = (0.6, 1.2)  # pixels
LEAST = 256  # flat pixels of a slice
BLOCK = 24.0  # mm, at least
LEAST_SIDE = 28  # pixels of a block
LEAST_OF_BLOCK = 350  # flat pixels, for a spread within 7 %
LEVEL = (0.95, 1.05)  # an error of 10 % moves the kept share by 0.13
BLOCKS = (0.85, 1.15)
MOST_OUTSIDE = 0.2
MOST_FACTOR = 1.5
LEAST_BLOCKS = 6  # of a slice, for a plane


@dataclass(frozen=True)
class LevelCheck:
    """How the noise of an image compares with drawn noise.

    Args:
        level: spread of the image over that of drawn noise, median of slices, after rescaling.
        rescaled: smallest and largest factor that was needed before.
        outside: part of the blocks whose ratio is outside of 0.85..1.15.
        variation: coefficient of variation of the ratio over blocks, before the level was fitted from place to place.
        blocks: how many were compared.
    """

    level: float
    rescaled: tuple[float, float]
    outside: float
    variation: float
    blocks: int

    @property
    def held(self) -> bool:
        """Whether drawn noise may stand for that of the image."""
        return self.blocks >= 4 and LEVEL[0] <= self.level <= LEVEL[1] and self.outside <= MOST_OUTSIDE


def compact_band(image: np.ndarray) -> np.ndarray:
    """Band-pass each slice of ``(X, Y, Z)``: a Gaussian of 0.6 less one of 1.2 pixels."""
    return gaussian_band(image, WIDTHS)


def gaussian_band(image: np.ndarray, widths: tuple[float, float]) -> np.ndarray:
    """Return each slice of ``(X, Y, Z)`` filtered with a Gaussian, less with a wider one; widths in pixels."""
    narrow, wide = (gaussian_filter(image, (sigma, sigma, 0)) for sigma in widths)
    return np.asarray(narrow - wide, dtype=np.float32)


def spread(values: np.ndarray) -> float:
    """Robust standard deviation of normal values."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def _deviation(values: np.ndarray) -> float:
    """Standard deviation of what lies within three spreads: of few values, surer than the spread itself."""
    middle, limit = np.median(values), 3 * spread(values)
    return float(np.clip(values - middle, -limit, limit).std())


def robust_ratio(image: np.ndarray, drawn: Sequence[np.ndarray], flat: np.ndarray) -> np.ndarray:
    """Spread of the band of an image over that of drawn noise, slice by slice.

    Args:
        image: shape ``(X, Y, Z)``.
        drawn: draws of its noise.
        flat: mask of flat regions.

    Returns:
        Shape ``(Z,)``; the median of the others where a slice has too few flat pixels, 1 where all have.
    """
    band, bands = compact_band(image), [compact_band(one) for one in drawn]
    ratios = np.full(image.shape[2], np.nan)
    for z in range(image.shape[2]):
        at = flat[..., z]
        if at.sum() >= LEAST:
            ratios[z] = spread(band[..., z][at]) / np.mean([spread(one[..., z][at]) for one in bands])
    middle = float(np.nanmedian(ratios)) if np.isfinite(ratios).any() else 1.0
    return np.where(np.isfinite(ratios), ratios, middle)


def block_ratios(
    image: np.ndarray, drawn: Sequence[np.ndarray], flat: np.ndarray, pixel: tuple[float, float], depth: int = 1
) -> np.ndarray:
    """Deviation of the band of an image over that of drawn noise, block by block.

    Args:
        image: shape ``(X, Y, Z)``.
        drawn: draws of its noise.
        flat: mask of flat regions.
        pixel: size in mm.
        depth: slices of a block.

    Returns:
        Shape ``(n, 4)``: the middle of each block in X and Y, its first slice, and the ratio.
    """
    band, bands = compact_band(image), [compact_band(one) for one in drawn]
    side = [max(LEAST_SIDE, round(BLOCK / step)) for step in pixel]
    found = []
    for z in range(0, image.shape[2], depth):
        for x in range(0, image.shape[0], side[0]):
            for y in range(0, image.shape[1], side[1]):
                place = (slice(x, x + side[0]), slice(y, y + side[1]), slice(z, z + depth))
                at = flat[place]
                if at.sum() >= LEAST_OF_BLOCK:
                    ratio = _deviation(band[place][at]) / np.mean([_deviation(one[place][at]) for one in bands])
                    middle = (one.start + size / 2 for one, size in zip(place[:2], side, strict=True))
                    found.append((*middle, z, ratio))
    return np.array(found).reshape(-1, 4)


def place_factor(blocks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Fit a plane to the logarithms of the ratios of one slice: what a body off center does to its noise.

    A bent surface fits better where there are blocks, and goes wrong where there are none.

    Args:
        blocks: of :func:`block_ratios`, of this slice.
        shape: of the slice.

    Returns:
        Factor of the standard deviation, in 0.67..1.5, shape ``shape``; 1 where there are too few blocks.
    """
    if len(blocks) < LEAST_BLOCKS:
        return np.ones(shape)
    low, high = blocks[:, :2].min(axis=0), blocks[:, :2].max(axis=0)
    terms = np.column_stack([np.ones(len(blocks)), blocks[:, :2]])
    level, *slopes = np.linalg.lstsq(terms, np.log(blocks[:, 3]), rcond=None)[0]
    # no farther out than blocks are
    x, y = (np.clip(np.arange(size), low[axis], high[axis]) for axis, size in enumerate(shape))
    factor: np.ndarray = np.exp(level + slopes[0] * x[:, None] + slopes[1] * y[None])
    return factor.clip(1 / MOST_FACTOR, MOST_FACTOR)


def check_level(
    image: np.ndarray,
    drawn: Sequence[np.ndarray],
    flat: np.ndarray,
    pixel: tuple[float, float],
    rescaled: np.ndarray,
    depth: int = 1,
    before: np.ndarray | None = None,
) -> LevelCheck:
    """Compare an image with noise that was drawn after rescaling.

    Args:
        image: shape ``(X, Y, Z)``.
        drawn: draws of its noise.
        flat: mask of flat regions.
        pixel: size in mm.
        rescaled: factors that the voxels or slices needed.
        depth: slices of a block.
        before: of :func:`block_ratios`, before the level was fitted from place to place; now by default.
    """
    level = float(np.median(robust_ratio(image, drawn, flat)))
    found = block_ratios(image, drawn, flat, pixel, depth)[:, 3]
    first = found if before is None else before[:, 3]
    outside = float(((found < BLOCKS[0]) | (found > BLOCKS[1])).mean()) if found.size else 1.0
    variation = float(first.std() / first.mean()) if first.size else float("nan")
    return LevelCheck(level, (float(rescaled.min()), float(rescaled.max())), outside, variation, len(found))
