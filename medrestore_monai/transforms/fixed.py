"""Degradations that do not change from run to run or machine to machine, for validation and tests.

One rule for all: the seed, the item's name as bytes and the numbers of its slices in their volume decide.
"""

from __future__ import annotations

import copy
import os
import zlib
from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import Randomizable, Transform
from monai.utils import ensure_tuple

from medrestore_monai.transforms.degradation import NumberedDegradationd

__all__ = ["FixedDegradationd"]


class FixedDegradationd(Transform):
    """Let a degradation draw the same for an item in every run, on every machine.

    The seed of a volume is the CRC-32 of ``seed/name/series_uid``, where names are bytes as in the file system
    (``os.fsencode``), so that any file name will do. What is drawn from it:

    - A degradation that numbers its noise, such as :class:`~medrestore_monai.transforms.SimulateCTLowDosed`, gets this
      seed and the numbers of the slices in their volume: those under ``slab``, or from ``slice`` or ``start`` on, or
      from 0 on. A slice has the same noise alone, in a slab and in its volume.
    - A random transform draws once for the whole item. Its seed is the CRC-32 of ``seed/name/series_uid/slice``, and of
      a slab without ``slice``, its ``start``; a volume that has neither ends with the slash.

    It is not random to MONAI, whose data sets may therefore cache what it makes.

    Args:
        transform: a degradation that numbers its noise, any ``Rand...d`` of this package, or a ``Compose`` of the
            latter; it stays as it is.
        seed: of all items; another one gives other draws.
        name_keys: keys of the item that, together, identify its volume.
        per_slice: if false, a random transform draws by the name alone: the same for all slices of a volume.

    Raises:
        TypeError: the transform draws nothing.
        ValueError: ``slice`` is among ``name_keys``; on a call, if the item has a value under none of them.
    """

    def __init__(
        self,
        transform: Randomizable | NumberedDegradationd,
        seed: int = 0,
        name_keys: KeysCollection = ("name", "series_uid"),
        per_slice: bool = True,
    ) -> None:
        if not isinstance(transform, Randomizable | NumberedDegradationd):
            raise TypeError(f"transform must draw at random, as a Rand...d does, got {type(transform).__name__}.")
        self.transform, self.seed, self.name_keys, self.per_slice = transform, seed, ensure_tuple(name_keys), per_slice
        if "slice" in self.name_keys:
            raise ValueError("name_keys must identify the volume: leave slice out, and set per_slice instead.")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images degraded."""
        if all(data.get(key) in (None, "") for key in self.name_keys):
            keys = ", ".join(map(str, self.name_keys))
            raise ValueError(f"the item needs a name to draw from: none of {keys} has a value.")
        name = [str(data.get(key, "")) for key in self.name_keys]
        if isinstance(self.transform, NumberedDegradationd):
            return self.transform(data, _seed_of(self.seed, *name))
        if self.per_slice:
            name.append(str(data.get("slice", data.get("start", ""))))
        transform = copy.deepcopy(self.transform)  # threads that fill a cache share ``self``
        transform.set_random_state(_seed_of(self.seed, *name))
        degraded: dict[Hashable, Any] = transform(data)
        return degraded


def _seed_of(seed: int, *name: str) -> int:
    """Return a seed of 32 bits, the same on every machine."""
    return zlib.crc32(b"/".join([str(seed).encode(), *map(os.fsencode, name)]))
