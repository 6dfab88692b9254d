"""NumPy files: one array, without pickles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medrestore_monai.images.damage import explained

__all__ = ["read_npy", "read_npz", "write_npy", "write_npz"]


def read_npy(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the array as it is."""
    with explained(path):
        return np.asarray(np.load(path, allow_pickle=False)), {}


def read_npz(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the only array of an archive, and its name.

    Raises:
        ValueError: if the file is damaged or holds several arrays.
    """
    with explained(path), np.load(path, allow_pickle=False) as archive:
        names = list(archive.files)
        stored = archive[names[0]] if len(names) == 1 else None
    if stored is None:
        raise ValueError(f"{path}: expected one array, got {len(names)}: {', '.join(names[:8])}.")
    return stored, {"npz_key": names[0]}


def write_npy(file: BinaryIO, stored: np.ndarray, like: Mapping[str, Any]) -> None:
    """Write the array as it is."""
    np.save(file, stored)


def write_npz(file: BinaryIO, stored: np.ndarray, like: Mapping[str, Any]) -> None:
    """Write the array under the name it had, else ``image``, compressed."""
    content: dict[str, Any] = {str(like.get("npz_key", "image")): stored}
    np.savez_compressed(file, **content)
