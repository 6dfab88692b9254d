"""What must be known of a whole volume before a slab of it is restored, worked out without holding it in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from medrestore_monai.intensity import MR_PERCENTILE, choose_range, mr_range

__all__ = ["Parts", "range_of_mr", "range_of_pictures"]

#: Gives the parts of a volume, one after the other; may be called several times.
Parts = Callable[[], Iterable[np.ndarray]]
_PICTURES = ("png", "jpeg", "tiff", "npz")
_PICTURE_BYTES = 2  # of a sample


def range_of_mr(parts: Parts) -> list[float]:
    """Return the range that slices and slabs of an MR volume are scaled by: MR has no unit.

    Args:
        parts: of the volume; values that are not finite do not count.
    """
    finite = [part.size - int(np.count_nonzero(~np.isfinite(part))) for part in parts()]
    largest = max((float(part[np.isfinite(part)].max(initial=-np.inf)) for part in parts()), default=0.0)
    if not sum(finite):
        largest = 0.0
    intensity = mr_range(largest, lambda: _percentile(parts, sum(finite)))
    return [intensity.lower, intensity.upper]


def range_of_pictures(values: np.ndarray, meta: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the range that slices and slabs of a stack of pictures are scaled by, as meta data.

    Args:
        values: of the whole stack, or its extremes.
        meta: of :func:`~medrestore_monai.images.read_image`.

    Returns:
        ``intensity_range``; nothing for floats, whose range is always the same, and for what no picture holds, which is
        refused when it is scaled.
    """
    dtype = np.dtype(str(meta["original_dtype"]))
    integers = dtype.kind in "iu" and dtype.itemsize <= _PICTURE_BYTES and meta.get("scl_slope", 1.0) == 1
    if meta.get("kind") not in _PICTURES or not integers or values.min() < 0:
        return {}
    gray = choose_range(values, "GRAY", dtype.name)
    return {"intensity_range": [gray.lower, gray.upper]}


def _percentile(parts: Parts, count: int) -> float:
    """The percentile of ``count`` values, as NumPy has it: only the highest ones are kept."""
    place = MR_PERCENTILE / 100 * (count - 1)
    kept = count - math.floor(place)
    highest = np.empty(0, dtype=np.float32)
    for part in parts():
        values = part[np.isfinite(part)]
        if len(highest) == kept:
            values = values[values > highest[0]]
        highest = np.concatenate([highest, values])
        if len(highest) > kept:
            highest = np.partition(highest, len(highest) - kept)[-kept:]
            highest = np.roll(highest, -int(highest.argmin()))  # the least one comes first
    ends = np.sort(highest)[:2]
    return float(np.percentile(ends, 100 * (place - math.floor(place)))) if len(ends) > 1 else float(ends[0])
