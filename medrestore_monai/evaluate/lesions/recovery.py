"""How much of a lesion is left: its contrast and its size, from results with and without it."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import label, zoom

_FINER = 4  # times, for the size


def recovered_contrast(difference: np.ndarray, truth: np.ndarray) -> float:
    """Return which part of a lesion's contrast is left: the projection ``<difference, truth> / <truth, truth>``.

    Args:
        difference: result with the lesion less that without, shape ``(X, Y)``.
        truth: the same of the clean images.
    """
    return float((difference * truth).sum() / (truth**2).sum())


def recovered_size(difference: np.ndarray, truth: np.ndarray) -> float | None:
    """Return the diameter at half of the maximum, over that of the clean images; ``None`` where nothing is left.

    Args:
        difference: mean over places of results with less those without a lesion, shape ``(X, Y)``, centered.
        truth: the same of the clean images.
    """
    sign = np.sign(truth[tuple(size // 2 for size in truth.shape)])
    areas = [_area(sign * image) for image in (difference, truth)]
    return float(np.sqrt(areas[0] / areas[1])) if all(areas) else None


def _area(image: np.ndarray) -> float:
    """Return the area of the connected region around the center that exceeds half of the largest value near it."""
    fine = zoom(image, _FINER, order=3, mode="nearest")
    x, y = (size // 2 for size in fine.shape)
    near = fine[x - _FINER : x + _FINER + 1, y - _FINER : y + _FINER + 1]
    if near.size == 0 or near.max() <= 0:
        return 0.0
    at = np.unravel_index(near.argmax(), near.shape)
    regions, _ = label(fine > near.max() / 2)
    own = regions[x - _FINER + at[0], y - _FINER + at[1]]
    return float((regions == own).sum()) / _FINER**2
