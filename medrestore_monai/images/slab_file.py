"""A volume in a file, written and read slice by slice: its size costs no memory."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SlabFile"]


class SlabFile:
    """Voxels ``(X, Y, Z)``, float32, in a file that holds slice after slice.

    ``volume[..., index]`` and ``volume[..., start:stop]`` read slices. Nothing is mapped: mapped pages would count as
    memory of the process.

    Args:
        path: of the file, which is made in full size, so that a full disk shows now.
        shape: of the volume.

    Raises:
        OSError: the disk is full.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self._slice = 4 * math.prod(shape[:2])
        self._file = path.open("w+b")
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file.fileno(), 0, max(1, self._slice * shape[2]))

    def write(self, start: int, values: np.ndarray) -> None:
        """Write slices ``(X, Y, n)``, the first of which is slice ``start``."""
        self._file.seek(start * self._slice)
        for index in range(values.shape[-1]):
            self._file.write(np.ascontiguousarray(values[..., index], dtype=np.float32).tobytes())

    def __getitem__(self, key: tuple[Any, int | slice]) -> np.ndarray:
        """Read one slice ``(X, Y)``, or several ``(X, Y, n)``."""
        index = key[1]
        if not isinstance(index, slice):
            return self[..., index : index + 1][..., 0]
        start, stop, _ = index.indices(self.shape[2])
        values = np.empty((stop - start, *self.shape[:2]), dtype=np.float32)
        self._file.seek(start * self._slice)
        self._file.readinto(values.data.cast("B"))
        return np.moveaxis(values, 0, -1)

    def close(self) -> None:
        """Close the file, which stays."""
        self._file.close()
