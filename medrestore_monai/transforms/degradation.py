"""What all degradations share: parameters that can be replayed, drawn anew for every item.

A degradation is a frozen dataclass of numbers, called with an image. The numbers of a draw are kept in the item, so
``MotionBlur(**item["motion_blur"])(item["label"])`` gives its image again. All random numbers come from NumPy's
``RandomState``: a seed gives the same picture on every machine, to float rounding, whatever the count of threads.
"""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor

from medrestore_monai.neighbors import inner_slices

__all__ = ["SLAB", "Degradation", "NumberedDegradationd", "RandDegradationd", "pixel_spacing", "slice_distance"]

#: Key of the item for the numbers of the neighboring slices that were cut out of a volume.
SLAB = "slab"


@dataclass(frozen=True)
class Degradation(ABC):
    """The drawn values of one degradation: with the same values, the same picture."""

    @abstractmethod
    def __call__(self, image: Tensor) -> Tensor:
        """Return the degraded image of shape ``(C, X, Y[, Z])``; ``image`` itself stays as it is."""


class RandDegradationd(RandomizableTransform, MapTransform, ABC):
    """Degrade images with values drawn for each item; they go to ``data[record]``, with the names of the dataclass.

    All keys of an item get the same values, the same noise included. Geometry and meta data stay.

    Args:
        keys: images in their physical unit, shape ``(C, X, Y)`` or ``(C, X, Y, Z)``; of a volume, every slice.
        prob: probability to degrade at all; else the values under ``record`` are those of :attr:`unchanged`.
        allow_missing_keys: as in MONAI.
    """

    record: ClassVar[str]
    """Key of the item for the drawn values."""
    unchanged: ClassVar[Degradation]
    """The values that change nothing."""

    def __init__(self, keys: KeysCollection, prob: float = 1.0, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.degradation: Degradation = self.unchanged

    @abstractmethod
    def draw(self) -> Degradation:
        """Draw the values from ``self.R``, always the same count of random numbers."""

    def randomize(self, data: Any = None) -> None:
        """Draw whether to degrade, and the values."""
        super().randomize(None)
        drawn = self.draw()
        self.degradation = drawn if self._do_transform else self.unchanged

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images degraded and the drawn values under ``record``."""
        out = dict(data)
        self.randomize(None)
        for key in self.key_iterator(out):
            if self._do_transform:
                out[key] = like(self.degradation(plain_slices(out[key])), out[key])
        out[self.record] = asdict(self.degradation)
        return out


class NumberedDegradationd(MapTransform, ABC):
    """Degrade slices with noise that a seed and the numbers of the slices in their volume decide.

    A slice is the same alone, in a slab and in its volume. The seed comes from
    :class:`~medrestore_monai.transforms.FixedDegradationd`; without one, a call is refused. The values used go to
    ``data[record]``.

    Args:
        keys: images, shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        allow_missing_keys: as in MONAI.
    """

    record: ClassVar[str]
    """Key of the item for the values."""

    @abstractmethod
    def values(self, seed: int) -> dict[str, Any]:
        """Return the values of a degradation by ``seed``, for JSON."""

    @abstractmethod
    def degraded(self, image: Tensor, numbers: Sequence[int], seed: int) -> Tensor:
        """Return an image degraded, with its meta data; ``numbers`` are those of its slices."""

    def __call__(self, data: Mapping[Hashable, Any], seed: int) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images degraded and the values under ``record``."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.degraded(out[key], slice_numbers(out, out[key]), seed)
        out[self.record] = self.values(seed)
        return out


def slice_numbers(data: Mapping[Hashable, Any], image: Tensor) -> Sequence[int]:
    """Numbers of the slices of an image ``(C, X, Y[, Z])`` in their volume, from 0 unless the item has others."""
    if image.ndim == 4 and SLAB in data:
        return [int(number) for number in data[SLAB]]
    first = int(data.get("slice") or data.get("start") or 0)
    if image.ndim == 3:
        return [first]
    first -= inner_slices(getattr(image, "meta", {}), image.shape[3]).start  # what was read with a slab begins before
    return range(first, first + image.shape[3])


def slice_generator(seed: int, number: int) -> np.random.RandomState:
    """What draws an exact simulation of one slice of a volume."""
    return np.random.RandomState(zlib.crc32(f"{seed}/{number}".encode()))


def plain_slices(image: Tensor) -> Tensor:
    """The values as a plain floating tensor, float32 unless float64.

    Raises:
        ValueError: it is no image ``(C, X, Y)`` or volume ``(C, X, Y, Z)``, or an empty one.
    """
    values = image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image)
    if values.ndim not in (3, 4) or 0 in values.shape:
        raise ValueError(f"expected an image (C, X, Y) or a volume (C, X, Y, Z), got the shape {tuple(values.shape)}.")
    return values if values.dtype == torch.float64 else values.float()


def range_of(
    name: str, value: float | Sequence[float], least: float = -math.inf, most: float = math.inf
) -> tuple[float, float]:
    """Return the two ends of a range given as such or as one number.

    Raises:
        ValueError: it is no range, or it leaves ``least..most``; the message has ``name`` in it.
    """
    ends = (value, value) if isinstance(value, (int, float)) else tuple(value)
    if len(ends) != 2 or not least <= ends[0] <= ends[1] <= most or not math.isfinite(ends[1]):
        within = f"numbers in [{least:g}, {most:g}]" if math.isfinite(most) else f"numbers of at least {least:g}"
        raise ValueError(f"{name} must be one number or a range (low, high) of {within}, got {value}.")
    return float(ends[0]), float(ends[1])


def check_ranges(**ranges: tuple[float, float]) -> None:
    """Refuse ranges that cannot be drawn from log-uniformly.

    Raises:
        ValueError: an end is not positive, or they are in the wrong order.
    """
    for name, (low, high) in ranges.items():
        if not 0 < low <= high:
            raise ValueError(f"{name} must be a range of positive numbers, got ({low}, {high}).")


def like(values: Tensor, image: Tensor) -> Tensor:
    """Return ``values`` with a copy of the meta data of ``image``, if it has any."""
    return MetaTensor(values).copy_meta_from(image) if isinstance(image, MetaTensor) else values


def pixel_spacing(image: Tensor) -> float:
    """In-plane pixel size in mm of a ``MetaTensor``.

    Raises:
        ValueError: it has no affine, or pixels that are not square.
    """
    if not isinstance(image, MetaTensor):
        raise ValueError(
            "the pixel spacing of a plain tensor is unknown: give spacing, or a MetaTensor with an affine."
        )
    spacing = image.pixdim[:2].tolist()
    if abs(spacing[0] - spacing[1]) > 0.01 * spacing[0]:
        raise ValueError(f"square pixels are needed, got {spacing[0]:.4f} x {spacing[1]:.4f} mm.")
    return float(spacing[0])


def slice_distance(image: Tensor) -> float:
    """Distance in mm of the slices of a ``MetaTensor``, also of one slice of a volume; 0 where it is unknown."""
    if not isinstance(image, MetaTensor):
        return 0.0
    distance = float(image.affine[:3, 2].norm())
    return distance if math.isfinite(distance) else 0.0
