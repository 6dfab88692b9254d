"""MGH and MGZ files of FreeSurfer: the stored numbers, and the header that gives them place."""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader

from medrestore_monai.images.damage import UnfitImageError

__all__ = ["read_mgh", "write_mgh"]


def read_mgh(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the stored numbers, shape ``(X, Y, Z)``, and the affine and the header's bytes.

    Raises:
        UnfitImageError: if the file holds a series of volumes.
        Exception: whatever nibabel raises on a damaged file.
    """
    image = nib.freesurfer.MGHImage.from_filename(path)
    shape, dtype = image.shape, image.get_data_dtype()
    # no deflate stream grows more than 1032 times
    if math.prod(shape) * dtype.itemsize > 1032 * path.stat().st_size:
        raise OSError(f"the header promises {shape} voxels, more than the file can hold")
    if len(shape) > 3 and shape[3] != 1:
        raise UnfitImageError(
            f"{path}: expected one volume, got a series of shape {shape}: split it first, as with mri_convert."
        )
    stored = np.asanyarray(image.dataobj).reshape(shape[:3])
    if path.suffix.lower() == ".mgz":
        with gzip.open(path) as packed:  # to its end, where its check sum is
            while packed.read(1 << 20):
                pass
    meta = {
        "affine": np.array(image.affine, dtype=np.float64),
        "mgh_header": np.frombuffer(image.header.binaryblock, dtype=np.uint8).copy(),
    }
    return stored.astype(stored.dtype.newbyteorder("=")), meta


def write_mgh(file: BinaryIO, stored: np.ndarray, like: Mapping[str, Any]) -> None:
    """Write stored numbers, shape ``(X, Y, Z)``, under the header of ``like``."""
    header = None
    if "mgh_header" in like:
        header = MGHHeader(np.asarray(like["mgh_header"], dtype=np.uint8).tobytes())
    image = nib.freesurfer.MGHImage(stored, np.asarray(like["affine"], dtype=np.float64), header)
    image.set_data_dtype(stored.dtype)
    file.write(image.to_bytes())
