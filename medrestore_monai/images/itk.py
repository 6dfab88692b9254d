"""NRRD and MHA files, by SimpleITK (the extra ``itk``): the stored numbers, and where they are."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medrestore_monai.images.damage import UnfitImageError, refuse_promise

__all__ = ["read_itk", "write_mha", "write_nrrd"]

_LPS = np.array([-1.0, -1.0, 1.0])
_HEADER = 1 << 16  # bytes
_ELSEWHERE = {
    ".nrrd": rb"(?im)^data ?file\s*:",
    ".mha": rb"(?im)^ElementDataFile[ \t]*=[ \t]*(?!LOCAL[ \t\r]*$)[^ \t\r\n]",
}
_PACKED = rb"(?im)^(encoding\s*:\s*(gz|gzip|bz)|CompressedData\s*=\s*True)"
_END = {".nrrd": rb"\r?\n\r?\n", ".mha": rb"(?im)^ElementDataFile\s*=\s*LOCAL\s*?\r?\n"}


def _simpleitk(path: Path) -> Any:
    if find_spec("SimpleITK") is None:
        raise UnfitImageError(f"{path} needs SimpleITK: pip install 'medrestore-monai[itk]', or convert it to NIfTI.")
    import SimpleITK

    return SimpleITK


def read_itk(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the stored numbers, shape ``(X, Y[, Z])``, and the affine and geometry.

    Raises:
        UnfitImageError: if the file holds colors, vectors or a series of volumes, or its data lie in another file.
        Exception: whatever SimpleITK raises on a damaged file; OSError if data are missing or too much.
    """
    itk, suffix = _simpleitk(path), path.suffix.lower()
    with path.open("rb") as stream:
        head = stream.read(_HEADER)
    if re.search(_ELSEWHERE[suffix], head):
        raise UnfitImageError(f"{path} keeps its data in another file: save both as one {suffix} file.")
    reader = itk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if components != 1 or len(size) not in (2, 3):
        raise UnfitImageError(
            f"{path}: expected one gray 2D image or 3D volume, got {len(size)} axes and {components} values a voxel: "
            "save its volumes one by one."
        )
    packed = bool(re.search(_PACKED, head))
    item = np.dtype(_TYPES.get(itk.GetPixelIDValueAsString(reader.GetPixelID()), "u1")).itemsize
    _check_size(path, head, math.prod(size) * item, packed)
    image = reader.Execute()
    spacing, origin = np.array(image.GetSpacing()), np.array(image.GetOrigin())
    direction = np.array(image.GetDirection()).reshape(len(size), len(size))
    affine = np.eye(4)
    affine[: len(size), : len(size)] = direction * spacing
    affine[: len(size), 3] = origin
    affine[:3] *= _LPS[:, None]
    meta = {"affine": affine, "itk_spacing": spacing, "itk_origin": origin, "itk_direction": direction.ravel()}
    return itk.GetArrayFromImage(image).T, {**meta, "itk_packed": int(packed)}


_TYPES = {
    "8-bit signed integer": "i1",
    "8-bit unsigned integer": "u1",
    "16-bit signed integer": "i2",
    "16-bit unsigned integer": "u2",
    "32-bit signed integer": "i4",
    "32-bit unsigned integer": "u4",
    "64-bit signed integer": "i8",
    "64-bit unsigned integer": "u8",
    "32-bit float": "f4",
    "64-bit float": "f8",
}


def _check_size(path: Path, head: bytes, expected: int, packed: bool) -> None:
    """Refuse a file that promises more than it can hold or may be unpacked to, or holds more than it promises.

    Raises:
        OSError: it cannot hold so much, or holds more.
        UnfitImageError: it is more than may be unpacked.
    """
    size = path.stat().st_size
    refuse_promise(path, expected, size)
    end = re.search(_END[path.suffix.lower()], head)
    if end is not None and not packed and size - end.end() != expected and b"ascii" not in head[: end.end()].lower():
        raise OSError(f"it holds {size - end.end()} bytes of {expected}")


def write_nrrd(file: BinaryIO, stored: np.ndarray, like: Mapping[str, Any]) -> None:
    """Write stored numbers, shape ``(X, Y[, Z])``, with the geometry of ``like``."""
    _write(file, stored, like, ".nrrd")


def write_mha(file: BinaryIO, stored: np.ndarray, like: Mapping[str, Any]) -> None:
    """Write stored numbers, shape ``(X, Y[, Z])``, with the geometry of ``like``."""
    _write(file, stored, like, ".mha")


def _write(file: BinaryIO, stored: np.ndarray, like: Mapping[str, Any], suffix: str) -> None:
    itk = _simpleitk(Path(f"an image as {suffix}"))
    image = itk.GetImageFromArray(np.ascontiguousarray(stored.T))
    spacing, origin, direction = _geometry(like, stored.ndim)
    image.SetSpacing([float(value) for value in spacing])
    image.SetOrigin([float(value) for value in origin])
    image.SetDirection([float(value) for value in direction])
    with tempfile.TemporaryDirectory(prefix="medrestore-") as place:
        path = Path(place) / f"image{suffix}"
        itk.WriteImage(image, str(path), bool(int(like.get("itk_packed", 1))))
        file.write(path.read_bytes())


def _geometry(like: Mapping[str, Any], axes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spacing, origin and direction in LPS, as the file had them or as the affine says."""
    if "itk_spacing" in like:
        return tuple(np.asarray(like[f"itk_{name}"]) for name in ("spacing", "origin", "direction"))  # type: ignore[return-value]
    affine = np.asarray(like.get("affine", np.eye(4)), dtype=np.float64)[:3] * _LPS[:, None]
    spacing = np.linalg.norm(affine[:axes, :axes], axis=0)
    return spacing, affine[:axes, 3], (affine[:axes, :axes] / spacing).ravel()
