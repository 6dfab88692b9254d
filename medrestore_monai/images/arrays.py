"""NumPy files, without pickles: one array, and archives with sets of small pictures, as MedMNIST has them."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from medrestore_monai.images.damage import UnfitImageError, explained
from medrestore_monai.images.whole import check_nothing_follows

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
                return {"": _checked_header(file, path.stat().st_size)}
        found = {}
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    found[member.removesuffix(".npy")] = _header(file)
        return found


def _checked_header(file: Any, size: int) -> tuple[tuple[int, ...], np.dtype]:
    """Read the header of an array that fills a file of ``size`` bytes."""
    shape, dtype = _header(file)
    promised = file.tell() + math.prod(shape) * dtype.itemsize
    if promised > size or dtype.hasobject:
        raise OSError(f"the header promises {shape} values of {dtype}, other than the file holds")
    check_nothing_follows(size - promised)
    return shape, dtype


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
        raise UnfitImageError(f"{path} has no array {name!r}.")
    if pictures.dtype != np.uint8 or not (pictures.ndim == 3 or (pictures.ndim == 4 and pictures.shape[3] == 3)):
        raise ValueError(
            f"{path}: expected {name} as 8 bit pictures (N, rows, columns) or (N, rows, columns, 3), "
            f"got {pictures.dtype} {pictures.shape}."
        )
    return pictures


def read_npy(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the array as it is.

    Raises:
        Exception: whatever NumPy raises on a damaged file; OSError if it is longer or shorter than its header says.
    """
    with path.open("rb") as file:
        _checked_header(file, path.stat().st_size)
        file.seek(0)
        array: np.ndarray = npy_format.read_array(file, allow_pickle=False)
    return array, {}


def read_npz(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the only array of an archive, and its name.

    Raises:
        UnfitImageError: if the file holds several arrays or something else.
        Exception: whatever zipfile and NumPy raise on a damaged file.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(names) != 1:
            listed = ", ".join(name.removesuffix(".npy") for name in names[:8])
            raise UnfitImageError(f"{path}: expected one array, got {len(names)}: {listed}.")
        with archive.open(names[0]) as member:
            if member.read(len(npy_format.MAGIC_PREFIX)) != npy_format.MAGIC_PREFIX:
                raise UnfitImageError(f"{path}: expected one array, got the file {names[0]}.")
        with archive.open(names[0]) as member:
            _checked_header(member, archive.getinfo(names[0]).file_size)
        with archive.open(names[0]) as member:
            stored: np.ndarray = npy_format.read_array(member, allow_pickle=False)
            member.read(1)  # the end, where the check sum is compared
    return stored, {"npz_key": names[0].removesuffix(".npy")}


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
