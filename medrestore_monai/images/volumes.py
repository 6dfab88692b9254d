"""A volume in a NIfTI or TIFF file that is read slab by slab: its size costs no memory.

A packed file, and one whose slices do not lie one after the other, goes through a temporary file.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from medrestore_monai.files import ScratchFolder, claim, require_space
from medrestore_monai.images.damage import UnfitImageError, explained
from medrestore_monai.images.files import (
    check_place,
    check_types,
    describe,
    kind_of,
    note_clipped,
    note_digits,
    open_result,
    own_digits,
    refuse_infinite,
    rounded,
    scale_of,
    scaled,
    source_state,
    stored_type,
    too_large,
)
from medrestore_monai.images.nifti import is_packed, nifti_meta, open_nifti, write_nifti_header
from medrestore_monai.images.slab_file import SlabFile
from medrestore_monai.images.slice_axis import SLICE_DIM, SLICE_ORDER, choose_slice_axis, slice_order
from medrestore_monai.images.tiff import checked_tiff, write_tiff_pages
from medrestore_monai.images.whole import check_nothing_follows
from medrestore_monai.stopping import stop_if_asked

__all__ = ["VolumeFile", "write_volume"]

#: Bytes that are read or written at a time.
_BLOCK = 32 << 20


class VolumeFile:
    """One open volume.

    Args:
        path: a NIfTI file, or a TIFF of several gray pages.
        axis: that its slices lie across; ``None``: chosen by the header.

    Attributes:
        shape: columns, rows and slices.
        order: axes of the file that are columns, rows and slices.
        meta: as of :func:`~medrestore_monai.images.read_image`; the affine is that of the file.
        extremes: least and greatest value.

    Raises:
        ValueError: as :func:`~medrestore_monai.images.read_image`.
        OSError: the disk of temporary files has too little room.
    """

    def __init__(self, path: Path, axis: int | None = None) -> None:
        self.path, kind = path, kind_of(path)
        state = source_state(path)
        self._scratch: ScratchFolder | None = None
        self._tiff: tifffile.TiffFile | None = None
        try:
            self._open(kind, axis, state)
        except BaseException:
            self.close()
            raise

    def _open(self, kind: str, axis: int | None, state: str) -> None:
        path = self.path
        with explained(path):
            file_shape, meta = (self._open_nifti if kind == "nifti" else self._open_tiff)()
        check_types(path, self.dtype)
        self._slope, self._inter = scale_of(path, meta)
        if axis is None:
            axis = choose_slice_axis(file_shape, meta.get("affine", np.eye(4)), meta.get(SLICE_DIM))
        self.order = slice_order(meta.get("affine", np.eye(4)), axis)
        self.shape = tuple(file_shape[one] for one in self.order)
        if kind == "nifti":
            with explained(path):
                self._lay_out(file_shape, axis)
        nans = self._look_through()
        self.meta = describe({**meta, "source_state": state}, path, kind, self.dtype, file_shape, False)
        if nans:
            self.meta["nan_voxels"] = nans
        if too_large(path, kind, self.dtype, max(map(abs, self.extremes)), self._slope):
            self.meta["original_dtype"] = "float32"

    def stored(self, start: int, stop: int) -> np.ndarray:
        """Read slices as they are stored, shape ``(X, Y, stop - start)``."""
        stop_if_asked()
        with explained(self.path):
            if self._tiff is not None and self._offset < 0:
                series = self._tiff.series[0]
                pages = [series.pages[index].asarray().reshape(self.shape[1::-1]) for index in range(start, stop)]
                return np.stack([page.T for page in pages], axis=-1)
            count = math.prod(self.shape[:2])
            with self._raw.open("rb") as file:
                file.seek(self._offset + start * count * self.dtype.itemsize)
                values = np.fromfile(file, self.dtype, count * (stop - start))
            values = values.astype(self.dtype.newbyteorder("="), copy=False)
            rows = self.shape[1::-1] if _is_rising(self.order) else self.shape[:2]
            return np.stack([slice_of(one, self.order) for one in values.reshape(stop - start, *rows)], axis=-1)

    def slab(self, start: int, stop: int) -> np.ndarray:
        """Read slices in the unit of the file: float32, shape ``(X, Y, stop - start)``."""
        return scaled(self.stored(start, stop), self._slope, self._inter)

    def parts(self) -> Iterator[np.ndarray]:
        """Read all slices, some at a time."""
        step = max(1, _BLOCK // (4 * math.prod(self.shape[:2])))
        for start in range(0, self.shape[2], step):
            yield self.slab(start, min(start + step, self.shape[2]))

    def close(self) -> None:
        """Let go of the file, and of temporary ones."""
        if self._tiff is not None:
            self._tiff.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _open_nifti(self) -> tuple[tuple[int, ...], dict[str, Any]]:
        image, shape = open_nifti(self.path)
        self.dtype = np.dtype(image.dataobj.dtype)
        self._voxels = Path(image.file_map["image"].filename)  # of a pair, the other file
        self._raw, self._offset = self._voxels, int(image.dataobj.offset)
        return shape, nifti_meta(image)

    def _open_tiff(self) -> tuple[tuple[int, ...], dict[str, Any]]:
        self._tiff = tifffile.TiffFile(self.path)
        layout, meta = checked_tiff(self.path, self._tiff)
        if not layout.in_slabs:
            raise UnfitImageError(f"{self.path}: expected TIFF of several gray pages, without a palette.")
        for name in ("color", "palette", "tiff_sizes"):
            meta.pop(name)
        series = self._tiff.series[0]
        # pages without a header of their own, one after the other
        self._offset = -1 if series.dataoffset is None else int(series.dataoffset)
        self._raw, self.dtype = self.path, series.dtype.newbyteorder(self._tiff.byteorder)
        return layout.shape[::-1], meta

    def _lay_out(self, file_shape: tuple[int, ...], axis: int) -> None:
        """Bring the voxels into one file that holds slice after slice."""
        size = math.prod(file_shape) * self.dtype.itemsize
        packed, moved = is_packed(self._voxels), axis != 2
        if packed or moved:
            self._scratch = ScratchFolder()
            require_space(Path(self._scratch.name), size * (packed + moved))
        if packed:
            self._raw = self._unpacked(size)
            self._offset = 0
        else:
            check_nothing_follows(self._voxels.stat().st_size - self._offset - size)
        if moved:
            self._move(file_shape, axis)

    def _unpacked(self, size: int) -> Path:
        raw = Path(str(self._scratch and self._scratch.name)) / "voxels"
        with gzip.open(self._voxels) as packed, raw.open("wb") as file:
            packed.seek(self._offset)
            left = size
            while left:
                stop_if_asked()
                part = packed.read(min(left, _BLOCK))
                if not part:
                    raise OSError(f"it holds {size - left} bytes of {size}")
                file.write(part)
                left -= len(part)
            check_nothing_follows(len(packed.read(_BLOCK)))  # to the end, where the check sum is
        return raw

    def _move(self, file_shape: tuple[int, ...], axis: int) -> None:
        before, target = self._raw, Path(str(self._scratch and self._scratch.name)) / "slices"
        columns, rows, slices = file_shape
        plane, width = columns * rows, self.dtype.itemsize
        piece = plane // file_shape[axis]  # voxels of a slice in one plane of the file
        step = max(1, _BLOCK // (plane * width))
        with before.open("rb") as source, target.open("wb") as file:
            source.seek(self._offset)
            for start in range(0, slices, step):
                stop_if_asked()
                count = min(step, slices - start)
                block = np.fromfile(source, self.dtype, count * plane).reshape(count, rows, columns)
                block = np.ascontiguousarray(np.moveaxis(block, 2 - axis, 0))
                for index, part in enumerate(block):
                    file.seek((index * slices + start) * piece * width)
                    file.write(part.tobytes())
        if before != self._voxels:
            before.unlink()
        self._raw, self._offset = target, 0

    def _look_through(self) -> int:
        """Refuse infinite values, note the extremes, and return how many voxels have no value."""
        low, high, infinite, nans = math.inf, -math.inf, 0, 0
        for part in self.parts():
            finite = np.isfinite(part)
            infinite += int(np.isinf(part).sum())
            if not finite.all():
                nans += int(np.isnan(part).sum())
                part = part[finite]
            if part.size:
                low, high = min(low, float(part.min())), max(high, float(part.max()))
        refuse_infinite(self.path, infinite, nans, math.prod(self.shape))
        self.extremes = low, high
        return nans


def _is_rising(order: tuple[int, ...]) -> bool:
    return order[0] < order[1]


def slice_of(content: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """Return a slice ``(X, Y)`` of how a file has it, where the axis that changes fastest is the last one."""
    return content.T if _is_rising(order) else content


def content_of(values: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """Undo :func:`slice_of`."""
    return values.T if _is_rising(order) else values


def write_moved(file: BinaryIO, slices: Path, dtype: np.dtype, file_shape: tuple[int, ...], axis: int) -> None:
    """Write the voxels of a file in their order, out of one that holds slice after slice across another axis.

    Args:
        file: open for binary writing.
        slices: of the file that holds the slices.
        dtype: of both.
        file_shape: of the volume in ``file``.
        axis: 0 or 1, that the slices lie across.
    """
    columns, rows, planes = file_shape
    count, piece = file_shape[axis], columns * rows // file_shape[axis]
    step = max(1, _BLOCK // (columns * rows * dtype.itemsize))
    with slices.open("rb") as source:
        for start in range(0, planes, step):
            stop_if_asked()
            many = min(step, planes - start)
            block = np.empty((count, many, piece), dtype)
            for index in range(count):
                source.seek((index * planes + start) * piece * dtype.itemsize)
                block[index] = np.fromfile(source, dtype, many * piece).reshape(many, piece)
            file.write(np.ascontiguousarray(np.moveaxis(block, 0, 2 - axis)).tobytes())


def write_volume(path: Path, voxels: SlabFile, like: Mapping[str, Any], overwrite: bool = False) -> Path:
    """Write a volume, slice by slice, as :func:`~medrestore_monai.images.write_image` writes a whole one.

    Args:
        path: of a NIfTI or TIFF file.
        voxels: the volume, its slices last.
        like: meta data of the source, a :class:`VolumeFile`.
        overwrite: replace an existing file, but never the source.

    Raises:
        FileExistsError: as ``write_image``.
        ValueError: as there.
    """
    kind = kind_of(path)
    check_place(path, like, overwrite)
    order = tuple(int(one) for one in like.get(SLICE_ORDER, (0, 1, 2)))
    file_shape = tuple(voxels.shape[order.index(one)] for one in range(3))
    slices = _StoredSlices(path, kind, voxels, like)
    with claim(path) as workspace, open_result(path, like, overwrite) as file:
        if kind == "tiff":
            pages = (one.T for one in slices)
            write_tiff_pages(file, pages, file_shape[::-1], slices.dtype, like)
        else:
            write_nifti_header(file, file_shape, slices.dtype, like)
            if order[2] == 2:
                for one in slices:
                    file.write(content_of(one, order).tobytes())
            else:
                aside = workspace.folder / "slices"
                with aside.open("wb") as moved:
                    for one in slices:
                        moved.write(content_of(one, order).tobytes())
                write_moved(file, aside, slices.dtype, file_shape, order[2])
        slices.finish()
    return path


class _StoredSlices:
    """The slices of a volume as they will be stored; what is to be noted of all of them is noted at the end."""

    def __init__(self, path: Path, kind: str, voxels: SlabFile, like: Mapping[str, Any]) -> None:
        self.path, self.voxels, self.like = path, voxels, like
        self.dtype, self._slope, self._inter = stored_type(kind, like, np.dtype(np.float32))
        self._clipped = self._nans = 0
        own = self.dtype == np.float64 or (self.dtype.kind == "f" and like.get("hu_offset"))
        source = Path(str(like["filename_or_obj"]))
        self._source = VolumeFile(source, int(like.get(SLICE_ORDER, (0, 1, 2))[2])) if own else None

    def __iter__(self) -> Iterator[np.ndarray]:
        for index in range(self.voxels.shape[2]):
            stop_if_asked()
            values = self.voxels[..., index]
            if np.isinf(values).any():
                raise ValueError(f"{self.path}: the image to write has NaN or infinite values.")
            self._nans += int(np.isnan(values).sum())
            if self.dtype.kind != "f":
                stored, clipped = rounded(values[..., None], self.dtype, self._slope, self._inter)
                self._clipped += clipped
                yield stored[..., 0]
            elif self._source is None:
                yield values.astype(self.dtype)
            else:
                own = self._source.stored(index, index + 1)[..., 0]
                yield own_digits(values, own, self.like).astype(self.dtype)

    def finish(self) -> None:
        """Note what is to be noted.

        Raises:
            ValueError: there are other NaN values than the source has.
        """
        if self._source is not None:
            self._source.close()
        if self._nans != int(self.like.get("nan_voxels", 0)):
            raise ValueError(f"{self.path}: the image to write has NaN or infinite values.")
        if self.dtype == np.float64:
            note_digits(self.path)
        note_clipped(self.path, self._clipped, math.prod(self.voxels.shape), self.dtype)
