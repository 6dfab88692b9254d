"""What an image file holds, by its header: fast enough to look at every file before any work."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

from medrestore_monai.images.arrays import list_arrays
from medrestore_monai.images.damage import UnfitImageError, explained
from medrestore_monai.images.files import kind_of, read_image
from medrestore_monai.images.jpeg import open_jpeg
from medrestore_monai.images.nifti import open_nifti
from medrestore_monai.images.pictures import is_gray_palette, open_png
from medrestore_monai.images.slice_axis import choose_slice_axis, slice_order
from medrestore_monai.images.tiff import tiff_layout

__all__ = ["ImageHeader", "read_header"]

_ROTATED = (5, 6, 7, 8)  # EXIF orientations that swap rows and columns
_TAIL = 64  # bytes


@dataclass(frozen=True)
class ImageHeader:
    """Size of one image.

    Args:
        size: columns and rows of a slice.
        slices: 1 for a picture; of a volume, those along the axis of
            :func:`~medrestore_monai.images.slice_axis.choose_slice_axis`.
        channels: 3 for RGB, else 1.
        in_slabs: a :class:`~medrestore_monai.images.volumes.VolumeFile` reads it, slab by slab.
    """

    size: tuple[int, int]
    slices: int
    channels: int
    in_slabs: bool = False


class _Look(NamedTuple):
    """Columns, rows and slices; whether it is RGB, whether the file goes on to its end, and is read slab by slab."""

    size: tuple[int, ...]
    color: bool
    whole: bool
    in_slabs: bool = False


def read_header(path: Path | str, axis: int | None = None) -> ImageHeader:
    """Return what an image file holds; a file whose end looks cut off is decoded to make sure.

    Args:
        path: a file as in :func:`~medrestore_monai.images.read_image`.
        axis: that the slices of a volume lie across; ``None``: chosen by the header.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is of a kind that ``read_image`` refuses, as far as header and end show.
    """
    path = Path(path)
    kind = kind_of(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with explained(path):
        look = _VOLUMES[kind](path, axis) if kind in _VOLUMES else _PICTURES.get(kind, _numpy)(path)
    size, color, whole, in_slabs = look
    if len(size) not in (2, 3) or 0 in size:
        raise ValueError(f"{path}: expected one 2D image or 3D volume, got the shape {size}.")
    if not whole:
        read_image(path)
    return ImageHeader((size[0], size[1]), size[2] if len(size) == 3 else 1, 3 if color else 1, in_slabs)


def _tiff(path: Path) -> _Look:
    with tifffile.TiffFile(path) as tiff:
        layout = tiff_layout(path, tiff)
        whole = all(
            start + length <= path.stat().st_size
            for page in tiff.series[0].pages
            if page is not None
            for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)
        )
    return _Look(layout.size, layout.color, whole, layout.in_slabs)


def _nifti(path: Path, given: int | None) -> _Look:
    image, shape = open_nifti(path)
    size = shape
    if len(shape) == 3:
        chosen = choose_slice_axis(shape, image.affine, image.header.get_dim_info()[2])
        axis = chosen if given is None else given
        size = tuple(shape[one] for one in slice_order(image.affine, axis))
    promised = int(image.dataobj.offset) + int(np.prod(size)) * image.get_data_dtype().itemsize
    path = Path(image.file_map["image"].filename)
    if path.name.lower().endswith(".gz"):
        # a gzip file ends with the size of what is packed, modulo 2**32
        return _Look(size, False, promised % 2**32 == struct.unpack("<I", _tail(path)[-4:].rjust(4, b"\0"))[0], True)
    return _Look(size, False, promised <= path.stat().st_size, True)


def _png(path: Path) -> _Look:
    picture, _, color_type = open_png(path)
    with picture:
        color = color_type in (2, 6) or (color_type == 3 and not is_gray_palette(picture))
        return _Look(picture.size, color, b"IEND" in _tail(path))


def _jpeg(path: Path) -> _Look:
    with open_jpeg(path) as picture:
        rotated = picture.getexif().get(0x0112) in _ROTATED
        size = picture.size[::-1] if rotated else picture.size
        return _Look(size, picture.mode == "RGB", b"\xff\xd9" in _tail(path))


def _numpy(path: Path) -> _Look:
    arrays = list_arrays(path)
    if len(arrays) != 1:
        raise UnfitImageError(f"{path}: expected one array, got {len(arrays)}: {', '.join([*arrays][:8])}.")
    ((shape, _),) = arrays.values()
    return _Look(shape, False, True)


def _volume(path: Path, given: int | None) -> _Look:
    image, meta = read_image(path)
    shape = image.shape
    if len(shape) == 3:
        chosen = choose_slice_axis(shape, meta["affine"])
        shape = tuple(shape[one] for one in slice_order(meta["affine"], chosen if given is None else given))
    return _Look(shape, False, True)


_VOLUMES = {"nifti": _nifti, "mgh": _volume, "nrrd": _volume, "mha": _volume}
_PICTURES = {"png": _png, "jpeg": _jpeg, "tiff": _tiff}


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-min(_TAIL, path.stat().st_size), 2)
        return file.read()
