"""NIfTI files: the stored numbers, and the header that gives them place and unit."""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medrestore_monai.images.damage import UnfitImageError, refuse_promise
from medrestore_monai.images.slice_axis import SLICE_DIM
from medrestore_monai.images.whole import check_nothing_follows

__all__ = ["is_packed", "nifti_meta", "open_nifti", "read_nifti", "write_nifti", "write_nifti_header"]

_HEAD = 184  # bytes, to the end of the slope
_SLOPES = {348: (112, "f"), 540: (176, "d")}  # place and form of the slope, by the size of the header
_LARGEST_VOXEL = 1e6  # in any unit that a header names, micrometers among them
# fields of the header that a result does not get, see descriptions.py
_TEXTS = ("descrip", "aux_file", "intent_name", "data_type", "db_name", "unused_str")


_PAIRED = {b"ni1": b"n+1", b"ni2": b"n+2"}


def read_nifti(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the stored numbers, shape ``(X, Y[, Z])``, and the affine, the header's bytes, slope and intercept.

    Raises:
        UnfitImageError: if the file holds a time series.
        Exception: whatever nibabel raises on a damaged file; OSError if something follows the voxels.
    """
    image, shape = open_nifti(path)
    stored = image.dataobj.get_unscaled()
    end = int(image.dataobj.offset) + stored.nbytes
    voxels = Path(image.file_map["image"].filename)  # of a pair, the other file
    check_nothing_follows((_unpacked_size(voxels, end) if is_packed(voxels) else voxels.stat().st_size) - end)
    return stored.reshape(shape), nifti_meta(image)


def nifti_meta(image: Any) -> dict[str, Any]:
    """Return what :func:`write_nifti` needs of an image of nibabel: affine, header, slope and intercept."""
    header = image.header.as_byteswapped("<")
    if header["magic"].item() in _PAIRED:  # a pair is written as one file
        header["magic"] = _PAIRED[header["magic"].item()]
    meta = {
        "affine": np.array(image.affine, dtype=np.float64),
        "nifti_header": np.frombuffer(header.binaryblock, dtype=np.uint8).copy(),
        # an array in memory has none
        "scl_slope": float(getattr(image.dataobj, "slope", 1.0)),
        "scl_inter": float(getattr(image.dataobj, "inter", 0.0)),
    }
    slice_dim = image.header.get_dim_info()[2]
    if slice_dim is not None:
        meta[SLICE_DIM] = slice_dim
    return meta


def is_packed(path: Path) -> bool:
    """Return whether a file is packed with gzip, by its name."""
    return path.name.lower().endswith(".gz")


def _unpacked_size(path: Path, expected: int) -> int:
    """Read a gzip file to its end, where its check sum is: who takes the voxels alone does not get there.

    It stops where there is more than expected.
    """
    size = 0
    with gzip.open(path) as file:
        while size <= expected and (part := file.read(1 << 20)):
            size += len(part)
    return size


def open_nifti(path: Path) -> tuple[Any, tuple[int, ...]]:
    """Open one image without its voxels; also its shape ``(X, Y[, Z])``.

    Raises:
        Exception: as :func:`read_nifti`, as far as the header shows.
    """
    if path.suffix.lower() in (".hdr", ".img"):
        partner = path.with_suffix(".img" if path.suffix.lower() == ".hdr" else ".hdr")
        if not partner.exists():
            raise UnfitImageError(f"{path} is half of a pair: put {partner.name} beside it.")
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Pair):
        raise UnfitImageError(
            f"{path} is no NIfTI file but Analyze, which does not say left from right: convert it to NIfTI first."
        )
    shape, dtype = image.shape, image.get_data_dtype()
    promised = math.prod(shape) * dtype.itemsize
    size = Path(image.file_map["image"].filename).stat().st_size
    refuse_promise(path, promised, size)
    if np.isinf(_stored_slope(image)):
        raise UnfitImageError(
            f"{path} has the slope (scl_slope) inf, which programs read differently: write it as 1 or 0 if its numbers "
            "are what they stand for."
        )
    if not np.isfinite(image.affine).all():
        raise OSError("its affine is not finite")
    axes = image.affine[:3, [axis for axis, side in enumerate(shape[:3]) if side > 1]]
    sizes = np.linalg.norm(axes, axis=0)
    if (
        (sizes <= 0).any()
        or (sizes > _LARGEST_VOXEL).any()
        or np.linalg.matrix_rank(axes / sizes, tol=1e-4) < sizes.size
    ):
        raise OSError(f"its affine gives voxels of {' x '.join(f'{size:.3g}' for size in sizes)}, or flat ones")
    if len(shape) > 3 and any(side != 1 for side in shape[3:]):
        raise UnfitImageError(
            f"{path}: expected one 2D image or 3D volume, got a series of shape {shape}: split it first."
        )
    return image, tuple(int(side) for side in shape[:3])


def _stored_slope(image: Any) -> float:
    """The slope as the header of NIfTI has it, which nibabel replaces where it is not finite."""
    path = Path(image.file_map["header" if "header" in image.file_map else "image"].filename)
    with gzip.open(path) if is_packed(path) else path.open("rb") as file:
        head = file.read(_HEAD)
    for order in "<>":
        size = struct.unpack(f"{order}i", head[:4])[0]
        if size in _SLOPES:
            place, form = _SLOPES[size]
            return float(struct.unpack_from(order + form, head, place)[0])
    return 1.0


def write_nifti(file: Any, stored: np.ndarray, like: Mapping[str, Any]) -> None:
    """Write stored numbers under the header of ``like``, else under a new one with its ``affine``.

    Args:
        file: open for binary writing.
        stored: shape ``(X, Y[, Z])``, before slope and intercept.
        like: meta data of :func:`read_nifti`.
    """
    write_nifti_header(file, stored.shape, stored.dtype, like)
    file.write(stored.tobytes(order="F"))


def write_nifti_header(file: Any, shape: tuple[int, ...], dtype: np.dtype, like: Mapping[str, Any]) -> None:
    """Write what comes before the stored numbers, see :func:`write_nifti`."""
    if "nifti_header" in like:
        header = _header(np.asarray(like["nifti_header"], dtype=np.uint8).tobytes())
        for name in _TEXTS:
            if name in header.keys():  # noqa: SIM118
                header[name] = b""
    else:
        affine = np.asarray(like.get("affine", np.eye(4)), dtype=np.float64)
        header = nib.Nifti1Header()
        header.set_data_shape(shape)
        header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0)[: len(shape)])
        header.set_xyzt_units("mm")
        header.set_sform(affine, code="scanner")
        header.set_qform(affine, code="scanner")
    scaled = dtype.kind in "iu" and "nifti_header" in like
    header["scl_slope"] = float(like.get("scl_slope", 1.0)) if scaled else 1.0
    header["scl_inter"] = float(like.get("scl_inter", 0.0)) if scaled else 0.0
    header.set_data_dtype(dtype)
    # the data follow the header, four bytes that say whether there are extensions, and these
    header["vox_offset"] = header["sizeof_hdr"] + 4 + header.extensions.get_sizeondisk()
    header.write_to(file)


def _header(block: bytes) -> Any:
    return (nib.Nifti1Header if len(block) == 348 else nib.Nifti2Header)(block, endianness="<")
