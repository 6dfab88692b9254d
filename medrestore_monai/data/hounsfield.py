"""What can be CT numbers in HU and what cannot, for images without a DICOM header."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medrestore_monai.data.whole import Parts
from medrestore_monai.intensity import INTENSITY_RANGES, LEAST_CT_SPAN

__all__ = ["WORD", "check_hounsfield"]

#: What a user can say of numbers that may be HU or not.
WORD = "say what is to be added to make them HU (`hu_offset`): -1024 for most stored values, 0 if these are HU"
_GRAY_LEVELS = 255  # of 8 bit without slope and intercept
_MOST_METAL = 0.1  # of all voxels may lie above the range of CT
_MOST_BELOW = 0.05  # of all voxels of stored values may lie below 0, by interpolation; padding apart


def check_hounsfield(
    image: np.ndarray | Parts, name: str, dtype: str | None = None, offset: float | None = None
) -> None:
    """Refuse what cannot be a CT in HU, or in HU but for an offset.

    An image of one value may be anything, and passes.

    Args:
        image: the whole image or volume, any shape, floating point, or what gives its parts; NaN does not count.
        name: of the image, for the message.
        dtype: NumPy's name of the type its file holds.
        offset: what makes its numbers HU, 0 where they are; ``None`` if unknown.

    Raises:
        ValueError: the values span less than 50, or 8 bit; a tenth is above bone; no value is below 0 and ``offset`` is
            unknown; or values are below 0 already and ``offset`` is not 0.
    """
    parts: Parts = image if callable(image) else lambda: (image,)
    low = min(float(np.nanmin(part, initial=np.inf)) for part in parts())
    high = max(float(np.nanmax(part, initial=-np.inf)) for part in parts())
    if low == high:
        return
    if dtype in ("uint8", "int8") and high - low <= _GRAY_LEVELS:
        raise ValueError(f"{name}: CT values in HU do not fit into 8 bit: these are gray levels or labels.")
    if high - low < LEAST_CT_SPAN:
        raise ValueError(
            f"{name} has values from {low:g} to {high:g}, which cannot be HU: CT is expected with air at -1000 and "
            "water at 0, neither scaled to a few units nor as attenuation per length."
        )
    upper = INTENSITY_RANGES["CT"].upper
    metal = _share(parts, lambda part: part > upper - (offset or 0))
    if metal > _MOST_METAL:
        raise ValueError(
            f"{name} has {100 * metal:.0f} % of its values above {upper:g}, which cannot be HU: no body has so much "
            "metal, these are gray levels."
        )
    if offset is None and low >= 0:
        raise ValueError(f"{name} has no value below 0, though air has -1000 HU: {WORD}.")
    if offset and low < 0 and _share(parts, lambda part: (part < 0) & (part > low)) > _MOST_BELOW:
        raise ValueError(f"{name} has values below 0 and looks like HU: it needs no hu_offset of {offset:g}.")


def _share(parts: Parts, condition: Callable[[np.ndarray], np.ndarray]) -> float:
    """How large a part of the values, of those that are numbers, fulfills a condition."""
    count = size = 0
    for part in parts():
        count += int(np.count_nonzero(condition(part)))
        size += part.size - int(np.count_nonzero(np.isnan(part)))
    return count / max(1, size)
