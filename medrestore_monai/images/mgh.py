"""MGH and MGZ files of FreeSurfer: the stored numbers, and the header that gives them place."""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader

from medrestore_monai.images.damage import UnfitImageError, refuse_promise

__all__ = ["read_mgh", "write_mgh"]

_HEAD = struct.Struct(">6i")  # version, four sizes, type
_ITEM_SIZES = {0: 1, 1: 4, 3: 4, 4: 2}  # bytes, by type


def read_mgh(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the stored numbers, shape ``(X, Y, Z)``, and the affine and the header's bytes.

    Raises:
        UnfitImageError: if the file holds a series of volumes.
        Exception: whatever nibabel raises on a damaged file.
    """
    packed = path.suffix.lower() == ".mgz"
    _refuse_bomb(path, packed)
    image = nib.freesurfer.MGHImage.from_filename(path)
    shape = image.shape
    if len(shape) > 3 and shape[3] != 1:
        raise UnfitImageError(
            f"{path}: expected one volume, got a series of shape {shape}: split it first, as with mri_convert."
        )
    stored = np.asanyarray(image.dataobj).reshape(shape[:3])
    if packed:
        _read_to_end(path)
    meta = {
        "affine": np.array(image.affine, dtype=np.float64),
        "mgh_header": np.frombuffer(image.header.binaryblock, dtype=np.uint8).copy(),
    }
    return stored.astype(stored.dtype.newbyteorder("=")), meta


def _refuse_bomb(path: Path, packed: bool) -> None:
    """Look at the sizes in the header before nibabel seeks what lies behind the voxels.

    Raises:
        OSError: they are more than the file can hold.
        UnfitImageError: they are more than may be unpacked.
    """
    with gzip.open(path) if packed else path.open("rb") as file:
        head = file.read(_HEAD.size)
    _, *shape, kind = _HEAD.unpack(head)
    refuse_promise(path, math.prod(shape) * _ITEM_SIZES.get(kind, 1), path.stat().st_size)


def _read_to_end(path: Path) -> None:
    """Read a packed file to its end, where its check sum is: who takes the voxels alone does not get there."""
    size, packed = 0, path.stat().st_size
    with gzip.open(path) as file:
        while part := file.read(1 << 20):
            size += len(part)
            refuse_promise(path, size, packed)


def write_mgh(file: BinaryIO, stored: np.ndarray, like: Mapping[str, Any]) -> None:
    """Write stored numbers, shape ``(X, Y, Z)``, under the header of ``like``."""
    header = None
    if "mgh_header" in like:
        header = MGHHeader(np.asarray(like["mgh_header"], dtype=np.uint8).tobytes())
    image = nib.freesurfer.MGHImage(stored, np.asarray(like["affine"], dtype=np.float64), header)
    image.set_data_dtype(stored.dtype)
    file.write(image.to_bytes())
