"""NumPy files, without pickles: one array, and archives with sets of small pictures, as MedMNIST has them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from medrestore_monai.images.damage import explained

__all__ = ["list_arrays", "read_npy", "read_npz", "read_picture_set", "write_npy", "write_npz"]

_HEADERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


def list_arrays(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return shape and type of every array in a ``.npy`` or ``.npz`` file, by name, without reading the values.

    The only array of a ``.npy`` file has the name ``""``.

    Raises:
        ValueError: if the file is damaged, or shorter than its header says.
    """
    with explained(path):
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                shape, dtype = _header(file)
                if file.tell() + np.prod(shape, dtype=float) * dtype.itemsize > path.stat().st_size:
                    raise OSError(f"the header promises {shape} values, more than the file holds")
            return {"": (shape, dtype)}
        found = {}
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    found[member.removesuffix(".npy")] = _header(file)
        return found


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = npy_format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"the array is of the unknown version {version}")
    shape, _, dtype = _HEADERS[version](file)
    return shape, dtype


def read_picture_set(path: Path, name: str) -> np.ndarray:
    """Read one array of pictures out of an archive.

    Args:
        path: a ``.npz`` file.
        name: of the array.

    Returns:
        The pictures, uint8, shape ``(N, rows, columns)`` or ``(N, rows, columns, 3)``.

    Raises:
        ValueError: if the file is damaged, has no such array, or it holds something else.
    """
    with explained(path), np.load(path, allow_pickle=False) as archive:
        pictures: np.ndarray | bytes | None = archive[name] if name in archive.files else None
    if not isinstance(pictures, np.ndarray):
        raise ValueError(f"{path} has no array {name!r}.")
    if pictures.dtype != np.uint8 or not (pictures.ndim == 3 or (pictures.ndim == 4 and pictures.shape[3] == 3)):
        raise ValueError(
            f"{path}: expected {name} as 8 bit pictures (N, rows, columns) or (N, rows, columns, 3), "
            f"got {pictures.dtype} {pictures.shape}."
        )
    return pictures


def read_npy(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the array as it is.

    Raises:
        ValueError: if the file is damaged or holds something else.
    """
    with explained(path), path.open("rb") as file:
        return npy_format.read_array(file, allow_pickle=False), {}


def read_npz(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the only array of an archive, and its name.

    Raises:
        ValueError: if the file is damaged, or holds several arrays or something else.
    """
    with explained(path), np.load(path, allow_pickle=False) as archive:
        names = list(archive.files)
        stored = archive[names[0]] if len(names) == 1 else None
    if stored is None:
        raise ValueError(f"{path}: expected one array, got {len(names)}: {', '.join(names[:8])}.")
    if not isinstance(stored, np.ndarray):
        raise ValueError(f"{path}: expected one array, got the file {names[0]}.")
    return stored, {"npz_key": names[0]}


def write_npy(file: BinaryIO, stored: np.ndarray, like: Mapping[str, Any]) -> None:
    """Write the array as it is."""
    np.save(file, stored)


def write_npz(file: BinaryIO, stored: np.ndarray, like: Mapping[str, Any]) -> None:
    """Write the array under the name it had, else ``image``, compressed."""
    name = str(like.get("npz_key", "image"))
    # numpy.savez takes names as keywords, so that an array may not be called file or allow_pickle
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"{name}.npy", "w", force_zip64=True) as member,
    ):
        npy_format.write_array(member, stored, allow_pickle=False)
