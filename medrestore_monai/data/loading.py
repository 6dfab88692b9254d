"""How one image of a list becomes a tensor: an image file, a DICOM series, or a slice of one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medrestore_monai.data.find import is_image_file
from medrestore_monai.data.hounsfield import WORD, check_hounsfield
from medrestore_monai.data.whole import range_of_mr, range_of_pictures
from medrestore_monai.dicom import (
    XRAY,
    Series,
    SUVError,
    SUVOptions,
    choose_stack,
    gray_range,
    read_stacks,
    stores_air,
    suv_factor,
)
from medrestore_monai.images import (
    SLICE_DIM,
    SLICE_ORDER,
    VolumeFile,
    choose_slice_axis,
    read_header,
    read_image,
    read_picture_set,
    slice_order,
)
from medrestore_monai.intensity import INTENSITY_RANGES, PADDING
from medrestore_monai.neighbors import HALO, SLICE_STEPS, steps_of_affine
from medrestore_monai.notes import note

__all__ = ["LoadImageOrSeriesd", "with_padding", "without_offset"]


def _is_color(meta: Mapping[str, Any]) -> bool:
    """Distinguish pictures ``(3, X, Y)`` from volumes ``(X, Y, Z)``."""
    return bool(meta["original_channel_dim"] == 0)


def _close(value: Any) -> None:
    if isinstance(value, VolumeFile):
        value.close()


class _Kept:
    """The newest results of reading: slices of one volume, or of a pair of volumes, come one after the other.

    Args:
        count: how many to keep.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.clear()

    def get(self, key: Hashable, read: Callable[[], Any]) -> Any:
        """Return what is kept under ``key``, else what ``read`` returns."""
        with self._lock:
            value = self._results.pop(key) if key in self._results else read()
            self._results[key] = value  # the newest is the last
            while len(self._results) > self._count:
                _close(self._results.pop(next(iter(self._results))))
            return value

    def clear(self) -> None:
        """Let go of everything."""
        for value in getattr(self, "_results", {}).values():
            _close(value)
        self._results: dict[Hashable, Any] = {}
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[type[_Kept], tuple[int]]:
        return _Kept, (self._count,)  # a worker process reads for itself


class LoadImageOrSeriesd(MapTransform):
    """Read an image file or a checked DICOM series into a tensor in physical units, channel first.

    MONAI's ``LoadImaged`` takes the first reader that does not fail and knows neither single slices nor one series of
    several; this chooses by what the path is.

    Args:
        keys: paths; replaced by ``MetaTensor`` s of shape ``(C, X, Y[, Z])``, float32. An item may name one ``slice``,
            which comes as ``(C, X, Y)``; the slices from ``start`` to before ``stop``, if that is above 0; a
            ``series_uid``, if it is not empty; the number of a ``stack`` of a series, from 1; and an ``array`` of
            pictures in a NumPy archive.
        modality: DICOM modality that a series must have, and that other files are said to be of; ``None`` for any.
            Color pictures have none. The meta data hold it as ``modality``: that of the header, or what was said.
            Slices and slabs of an ``MR`` volume, and of a stack of pictures of integers of no modality, carry the
            ``intensity_range`` of the whole, which ToUnitRanged then uses, and X-ray images (CR, DX) that of their
            bits. Those whose least value is white (MONOCHROME1) come inverted; the meta data hold the sum of both ends
            as ``inverted``.
        allow_gaps: take a series with missing slices.
        suv: fields of :class:`~medrestore_monai.dicom.SUVOptions`, for PET. The meta data of a PET series hold
            ``suv_factor``, the SUV per Bq/ml or count, or ``suv_missing``, the reason why there is none. A file that is
            not DICOM is taken to be in SUV, unless ``suv`` names the ``factor``, which says that it is in Bq/ml.
        context: slices on each side that a slab from ``start`` to ``stop`` is read with, as far as there are such; the
            meta data hold their numbers as ``halo``. Those of a volume hold ``slice_steps``, where the positions of its
            slices are known, see :mod:`medrestore_monai.neighbors`.
        slice_axis: axis (0, 1 or 2) that the slices of a volume in a file lie across; ``None``: chosen by the header,
            see :func:`~medrestore_monai.images.choose_slice_axis`, with a note where it is not the third. It is moved
            to the end; the meta data hold the order of the axes as ``slice_order``.
        hu_offset: what makes the numbers of a CT file HU, 0 where they are; ``None`` if unknown: then
            one without a value below 0 is refused. A DICOM series is trusted, unless its slope and intercept leave no
            room for air. The meta data hold what was added as ``hu_offset``; a result is written without it.
        high_bits: see :func:`~medrestore_monai.dicom.read_series`.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: for ``suv`` or ``hu_offset`` of another modality, or values they cannot have; on a call, if the
            image cannot be used, such as CT that cannot be in HU: the message names it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modality: str | None = None,
        allow_gaps: bool = False,
        allow_missing_keys: bool = False,
        suv: Mapping[str, Any] | None = None,
        context: int = 0,
        hu_offset: float | None = None,
        slice_axis: int | None = None,
        high_bits: str = "auto",
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.high_bits = high_bits
        if slice_axis not in (None, 0, 1, 2):
            raise ValueError(f"slice_axis must be 0, 1 or 2, got {slice_axis!r}.")
        self.slice_axis = slice_axis
        if context < 0:
            raise ValueError(f"context must be at least 0, got {context}.")
        self.context = context
        if suv and modality not in (None, "PT"):
            raise ValueError(f"{modality} images have no SUV: leave the SUV options out.")
        if hu_offset is not None and modality not in (None, "CT"):
            raise ValueError(f"{modality} images have no HU: leave hu_offset out.")
        if hu_offset is not None and not np.isfinite(hu_offset):
            raise ValueError(f"hu_offset must be a number of HU, got {hu_offset}.")
        self.modality = modality
        self.hu_offset = hu_offset
        self.allow_gaps = allow_gaps
        self.suv = SUVOptions.of(suv)
        self._files, self._of_files = _Kept(2), _Kept(8)

    def close(self) -> None:
        """Let go of the series and images that are kept for their next slices; files may change then."""
        self._files.clear()
        self._of_files.clear()

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return a copy of ``data`` with paths replaced by images."""
        out = dict(data)
        for key in self.key_iterator(out):
            path, part = Path(out[key]), _part(out)
            if out.get("array"):
                out[key] = self._load_picture(path, str(out["array"]), int(out["slice"]))
            elif is_image_file(path):
                out[key] = self._load_file(path, part, out.get("slice") is not None, int(out.get("slices") or 0))
                if out.get("slice") is not None:  # items of a batch must have the same keys
                    for name in (SLICE_ORDER, SLICE_DIM, PADDING, "nan_voxels", "source_state"):
                        out[key].meta.pop(name, None)
            else:
                out[key] = self._load_series(path, out.get("series_uid", ""), part, int(out.get("stack", 0)))
            if out.get("slice") is not None and out[key].ndim == 4:
                out[key] = out[key][..., 0]
        return out

    def _load_picture(self, path: Path, array: str, number: int) -> MetaTensor:
        picture = self._files.get((path, array), lambda: read_picture_set(path, array))[number]  # (rows, columns[, 3])
        color = picture.ndim == 3
        if color and self.modality is not None:
            raise ValueError(f"{path} holds color pictures, where {self.modality} is expected.")
        meta = {
            "source": str(path),
            "original_dtype": str(picture.dtype),
            "original_channel_dim": 0 if color else float("nan"),
            "spatial_shape": np.asarray(picture.T.shape[-2:]),
        }
        return _tensor(picture.T if color else picture.T[None], np.eye(4), {**meta, **self._said()})

    def _load_file(self, path: Path, part: slice | None, single: bool, slices: int) -> MetaTensor:
        if part is not None and not single and self._in_slabs(path):
            return self._load_slab(path, part, slices)
        array, meta = read_image(path) if part is None else self._open_image(path)
        meta = {**meta, "source": str(path)}
        if not _is_color(meta) and array.ndim == 3:
            array, meta = self._slices_last(path, array, meta)
        if meta.get("kind") in ("nifti", "mgh", "nrrd", "mha") and array.ndim == 3:
            meta[SLICE_STEPS] = steps_of_affine(meta["affine"], array.shape[2])
        if part is None:
            return self.take(array, meta, str(path))
        if self.modality is None and array.ndim == 3 + _is_color(meta):
            whole, of_file = array, meta
            meta = {**meta, **self._of_files.get(("pictures", path), lambda: range_of_pictures(whole, of_file))}
        self._refuse_color(meta, str(path))
        if self.modality == "CT":
            # the whole: a single slice may show no air
            self._of_files.get(("HU", path), lambda: self._check_whole(path))
        if not _is_color(meta):
            if array.ndim == 3:
                part, around = self._with_halo(part, array.shape[2])
                array, meta = array[..., part], {**meta, **around, **_steps_within(meta, part)}
            array, meta = self._filled(array, meta, str(path))
            array = array[None]
        elif array.ndim == 4:
            array = array[..., part]
        if self.modality == "MR":
            of_mr = self._of_files.get(path, lambda: range_of_mr(lambda: (self._open_image(path)[0],)))
            meta = {**meta, "intensity_range": of_mr}
        return self._noted(array, meta, str(path))

    def _in_slabs(self, path: Path) -> bool:
        header = self._of_files.get(("header", path), lambda: read_header(path, self.slice_axis))
        return bool(header.in_slabs and header.slices > 1)

    def _load_slab(self, path: Path, part: slice, slices: int) -> MetaTensor:
        """Read some slices of a file whose whole may be larger than the memory."""
        volume: VolumeFile = self._files.get((path, "slabs"), lambda: VolumeFile(path, self.slice_axis))
        if slices not in (0, volume.shape[2]):
            raise ValueError(
                f"{path} has {volume.shape[2]} slices, where {slices} were planned: give both `slice_axis`."
            )
        name, meta = str(path), {**volume.meta, "source": str(path)}
        if self.slice_axis is None:
            _note_axis(path, meta["affine"], volume.order)
        if volume.order != (0, 1, 2):
            meta |= {SLICE_ORDER: list(volume.order), "affine": meta["affine"][:, [*volume.order, 3]]}
        if self.modality == "CT":
            check = partial(check_hounsfield, volume.parts, name, volume.dtype.name, self.hu_offset)
            self._of_files.get(("HU", path), check)
        if "nifti_header" in meta:
            meta[SLICE_STEPS] = steps_of_affine(meta["affine"], volume.shape[2])
        part, around = self._with_halo(part, volume.shape[2])
        array, meta = self._filled(
            volume.slab(part.start, part.stop), {**meta, **around, **_steps_within(meta, part)}, name
        )
        if self.modality == "MR":
            meta["intensity_range"] = self._of_files.get(path, lambda: range_of_mr(volume.parts))
        elif self.modality is None:
            meta |= range_of_pictures(np.array(volume.extremes), meta)
        return self._noted(array[None], meta, name)

    def take(self, array: np.ndarray, meta: Mapping[str, Any], name: str = "the image") -> MetaTensor:
        """Check a whole image that was read already, and note of it what is noted of a file.

        Args:
            array: float32, shape ``(X, Y[, Z])`` or ``(3, X, Y)``.
            meta: of :func:`~medrestore_monai.images.read_image`; with ``unit``, if that is known.
            name: of the image, in messages.

        Returns:
            The image, shape ``(C, X, Y[, Z])``.

        Raises:
            ValueError: as on a call.
        """
        self._refuse_color(meta, name)
        if self.modality == "CT" and meta.get("unit") != "HU":
            self._check_hounsfield(array, meta, name)
        array, meta = self._filled(array, meta, name)
        return self._noted(array if _is_color(meta) else array[None], meta, name)

    def _refuse_color(self, meta: Mapping[str, Any], name: str) -> None:
        if _is_color(meta) and self.modality is not None:
            raise ValueError(f"{name} is a color picture, where {self.modality} is expected.")

    def _noted(self, array: np.ndarray, meta: Mapping[str, Any], name: str) -> MetaTensor:
        """Add the offset to HU, and the notes on unit and modality."""
        if self.modality == "CT" and meta.get("unit") != "HU":
            meta = {**meta, "unit": "HU", "hu_offset": self.hu_offset or 0.0}
            array = array + np.float32(self.hu_offset or 0.0)
        return _tensor(array, meta["affine"], {**meta, **self._unit_of_file(name, meta), **self._said()})

    def _open_image(self, path: Path) -> tuple[np.ndarray, dict[str, Any]]:
        found: tuple[np.ndarray, dict[str, Any]] = self._files.get(path, lambda: read_image(path))
        return found

    def _open_series(self, path: Path, uid: str, stack: int) -> Series:
        found: list[Series] = self._files.get((path, uid), lambda: self._read_stacks(path, uid))
        return choose_stack(found, stack)

    def _read_stacks(self, path: Path, uid: str) -> list[Series]:
        return read_stacks(path, uid or None, self.modality, self.allow_gaps, self.high_bits)

    def _check_whole(self, path: Path) -> None:
        array, meta = self._open_image(path)
        self._check_hounsfield(array, meta, str(path))

    def _check_hounsfield(self, array: np.ndarray, meta: Mapping[str, Any], name: str) -> None:
        finite = array[np.isfinite(array)] if "nan_voxels" in meta else array
        check_hounsfield(finite, name, str(meta["original_dtype"]), self.hu_offset)

    def _slices_last(self, path: Path, array: np.ndarray, meta: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        """Move the axis across which the slices lie to the end."""
        affine, axis = meta["affine"], self.slice_axis
        if axis is None:
            axis = choose_slice_axis(array.shape, affine, meta.get(SLICE_DIM))
        order = slice_order(affine, axis)
        if order == (0, 1, 2):
            return array, meta
        if self.slice_axis is None:
            _note_axis(path, affine, order)
        return array.transpose(order), {**meta, SLICE_ORDER: list(order), "affine": affine[:, [*order, 3]]}

    def _filled(self, array: np.ndarray, meta: Mapping[str, Any], name: str) -> tuple[np.ndarray, dict[str, Any]]:
        """Give voxels without a value (NaN) that of air, or 0; the meta data hold which they are."""
        if "nan_voxels" not in meta:
            return array, dict(meta)
        padding = np.isnan(array)
        note(f"{name}: {meta['nan_voxels']} voxels have no value (NaN); they are kept as padding.")
        air = INTENSITY_RANGES["CT"].lower - (self.hu_offset or 0) if self.modality == "CT" else 0.0
        return np.where(padding, np.float32(air), array), {**meta, PADDING: padding}

    def _said(self) -> dict[str, str]:
        """The modality of a file that is not DICOM is what the user says."""
        return {} if self.modality is None else {"modality": self.modality}

    def _unit_of_file(self, name: str, meta: Mapping[str, Any]) -> dict[str, Any]:
        if self.suv.factor is not None:
            return {"unit": "Bq/ml", "suv_factor": self.suv.factor}
        if self.suv != SUVOptions():
            raise ValueError(f"{name} has no DICOM header to work out the SUV with: give `suv_factor` alone.")
        if self.modality == "PT" and "unit" not in meta:
            note(
                f"{name} does not name the unit of its PET, which is taken to be SUV; if it is another one, such as "
                "Bq/ml, give `suv_factor`, the SUV per unit."
            )
        return {}

    def _load_series(self, path: Path, series_uid: str, part: slice | None, stack: int) -> MetaTensor:
        whole = part is None
        if part is None:
            series = choose_stack(self._read_stacks(path, series_uid), stack)
            part, around = slice(0, series.shape[2]), dict[str, Any]()
        else:
            series = self._open_series(path, series_uid, stack)
            part, around = self._with_halo(part, series.shape[2])
        array = series.slab(part.start, part.stop)[None]
        meta: dict[str, Any] = {
            **around,
            **_steps_within({SLICE_STEPS: series.slice_steps}, part),
            "source": str(path),
            "series_uid": series.uid,
            "modality": series.modality,
            "unit": series.unit,
            "allow_gaps": self.allow_gaps,
            "source_state": series.state,
            "high_bits": self.high_bits,
            "stack": stack,
            "regular": series.regular,
        }
        if series.modality == "MR" and not whole:
            meta["intensity_range"] = self._of_files.get(
                (path, series_uid, stack), lambda: range_of_mr(lambda: _slices_of(series))
            )
        if series.modality in XRAY:
            lower, upper = gray_range(series.datasets[0])
            meta["intensity_range"] = [lower, upper]
            if series.datasets[0].PhotometricInterpretation == "MONOCHROME1":
                meta["inverted"] = lower + upper  # the least value is white there
                array = np.float32(meta["inverted"]) - array
        if series.modality == "CT" and not stores_air(series.datasets[0]):
            if self.hu_offset is None:
                raise ValueError(
                    f"the slope and intercept of {path} leave no value for air, which has -1000 HU: {WORD}."
                )
            meta["hu_offset"] = self.hu_offset
            array = array + np.float32(self.hu_offset)
        return _tensor(array, series.affine, {**meta, **self._suv_of_series(series)})

    def _with_halo(self, part: slice, slices: int) -> tuple[slice, dict[str, Any]]:
        """Widen a slab by the slices that it is restored with; also the meta data that say by how many."""
        if self.context == 0 or part.stop - part.start == slices:
            return part, {}
        wide = slice(max(0, part.start - self.context), min(slices, part.stop + self.context))
        return wide, {HALO: np.array([part.start - wide.start, wide.stop - part.stop])}

    def _suv_of_series(self, series: Series) -> dict[str, Any]:
        if series.modality != "PT":
            return {}
        try:
            return {"suv_factor": suv_factor(series.datasets, self.suv, str(series.source.name), series.frames)}
        except SUVError as error:
            return {"suv_missing": str(error)}  # an error only where the SUV is needed


def _slices_of(series: Series) -> Iterator[np.ndarray]:
    return (series.slab(index, index + 1) for index in range(series.shape[2]))


def _note_axis(path: Path, affine: np.ndarray, order: Sequence[int]) -> None:
    """Note that slices lie across another axis than the third."""
    if order[2] != 2:
        spacing = " x ".join(f"{side:.3g}" for side in np.linalg.norm(affine[:3, :3], axis=0))
        note(
            f"{path}: by its header (spacing {spacing} mm) its slices lie across axis {order[2]}, not the third; if "
            "they do not, give `slice_axis`, 0 to 2."
        )


def _steps_within(meta: Mapping[str, Any], part: slice) -> dict[str, Any]:
    """The distances of the slices of a part of a volume, where those of the volume are known."""
    return {SLICE_STEPS: meta[SLICE_STEPS][part.start : part.stop - 1]} if SLICE_STEPS in meta else {}


def _part(item: Mapping[Any, Any]) -> slice | None:
    """Return the slices that an item names, or nothing for all of them."""
    if item.get("slice") is not None:
        return slice(int(item["slice"]), int(item["slice"]) + 1)
    stop = int(item.get("stop", 0))
    return slice(int(item["start"]), stop) if stop > 0 else None


def with_padding(values: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
    """Take back the values that the loader gave to voxels without one (NaN)."""
    return np.where(np.asarray(meta[PADDING]), np.float32(np.nan), values) if PADDING in meta else values


def without_offset(values: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
    """Take back what the loader added to make the numbers of a CT HU, and that it made the least value black."""
    if "inverted" in meta:
        return np.float32(meta["inverted"]) - values
    offset = float(meta.get("hu_offset", 0))
    return values - np.float32(offset) if offset else values


def _tensor(array: np.ndarray, affine: np.ndarray, meta: dict[str, Any]) -> MetaTensor:
    values = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))  # a copy: the array may be kept
    meta = {**meta, "affine": torch.as_tensor(np.asarray(affine, dtype=np.float64))}
    return MetaTensor(values, meta=meta)
