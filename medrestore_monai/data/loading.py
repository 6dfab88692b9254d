"""How one image of a list becomes a tensor: an image file, a DICOM series, or a slice of one."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medrestore_monai.data.find import is_image_file
from medrestore_monai.data.hounsfield import WORD, check_hounsfield
from medrestore_monai.dicom import Series, SUVError, SUVOptions, read_series, stores_air, suv_factor
from medrestore_monai.images import read_image, read_picture_set
from medrestore_monai.intensity import choose_range
from medrestore_monai.neighbors import HALO, SLICE_STEPS, steps_of_affine

__all__ = ["LoadImageOrSeriesd", "forget"]


def _is_color(meta: Mapping[str, Any]) -> bool:
    """Tell pictures ``(3, X, Y)`` from volumes ``(X, Y, Z)``."""
    return bool(meta["original_channel_dim"] == 0)


# slices of one volume, or of a pair of volumes, are asked for one after the other
_open_series = functools.lru_cache(maxsize=2)(
    lambda path, uid, modality, allow_gaps: read_series(path, uid or None, modality, allow_gaps)
)
_open_image = functools.lru_cache(maxsize=2)(read_image)
_open_pictures = functools.lru_cache(maxsize=2)(read_picture_set)


@functools.lru_cache(maxsize=8)
def _series_range(path: Path, uid: str, modality: str | None, allow_gaps: bool) -> list[float]:
    series = _open_series(path, uid, modality, allow_gaps)
    return _mr_range(series.slab(0, series.shape[2]))


@functools.lru_cache(maxsize=8)
def _file_range(path: Path) -> list[float]:
    return _mr_range(_open_image(path)[0])


@functools.lru_cache(maxsize=8)
def _check_file(path: Path, offset: float | None) -> None:
    array, meta = _open_image(path)
    check_hounsfield(array, str(path), str(meta["original_dtype"]), offset)


def _mr_range(volume: np.ndarray) -> list[float]:
    """MR has no unit: slices and slabs are scaled by the range of their whole volume."""
    finite = volume[np.isfinite(volume)]  # a slice with other values is refused where it is scaled
    intensity = choose_range(finite if finite.size else np.zeros(1), "MR")
    return [intensity.lower, intensity.upper]


class LoadImageOrSeriesd(MapTransform):
    """Read an image file or a checked DICOM series into a tensor in physical units, channel first.

    MONAI's ``LoadImaged`` takes the first reader that does not fail and knows neither single slices nor one series of
    several; this chooses by what the path is.

    Args:
        keys: paths; replaced by ``MetaTensor`` s of shape ``(C, X, Y[, Z])``, float32. An item may name one ``slice``,
            which comes as ``(C, X, Y)``; the slices from ``start`` to before ``stop``, if that is above 0; a
            ``series_uid``, if it is not empty; and an ``array`` of pictures in a NumPy archive.
        modality: DICOM modality that a series must have, and that other files are said to be of; ``None`` for any.
            Color pictures have none. The meta data hold it as ``modality``: that of the header, or what was said.
            Slices and slabs of an ``MR`` volume carry the ``intensity_range`` of the whole, which ToUnitRanged then
            uses.
        allow_gaps: take a series with missing slices, as single images.
        suv: fields of :class:`~medrestore_monai.dicom.SUVOptions`, for PET. The meta data of a PET series hold
            ``suv_factor``, the SUV per Bq/ml or count, or ``suv_missing``, the reason why there is none. A file that is
            not DICOM is taken to be in SUV, unless ``suv`` names the ``factor``, which says that it is in Bq/ml.
        context: slices on each side that a slab from ``start`` to ``stop`` is read with, as far as there are such; the
            meta data hold their numbers as ``halo``. Those of a volume hold ``slice_steps``, where the positions of its
            slices are known, see :mod:`medrestore_monai.neighbors`.
        hu_offset: what makes the numbers of a CT file HU, 0 where they are; ``None`` if unknown: then
            one without a value below 0 is refused. A DICOM series is trusted, unless its slope and intercept leave no
            room for air. The meta data hold what was added as ``hu_offset``; a result is written without it.
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
    ) -> None:
        super().__init__(keys, allow_missing_keys)
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

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return a copy of ``data`` with paths replaced by images."""
        out = dict(data)
        for key in self.key_iterator(out):
            path, part = Path(out[key]), _part(out)
            if out.get("array"):
                out[key] = self._load_picture(path, str(out["array"]), int(out["slice"]))
            elif is_image_file(path):
                out[key] = self._load_file(path, part)
            else:
                out[key] = self._load_series(path, out.get("series_uid", ""), part)
            if out.get("slice") is not None and out[key].ndim == 4:
                out[key] = out[key][..., 0]
        return out

    def _load_picture(self, path: Path, array: str, number: int) -> MetaTensor:
        picture = _open_pictures(path, array)[number]  # (rows, columns[, 3])
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

    def _load_file(self, path: Path, part: slice | None) -> MetaTensor:
        array, meta = read_image(path) if part is None else _open_image(path)
        if _is_color(meta) and self.modality is not None:
            raise ValueError(f"{path} is a color picture, where {self.modality} is expected.")
        if self.modality == "CT" and part is None:
            check_hounsfield(array, str(path), str(meta["original_dtype"]), self.hu_offset)
        elif self.modality == "CT":
            _check_file(path, self.hu_offset)  # the whole: a single slice may show no air
        if not _is_color(meta):
            if "nifti_header" in meta and array.ndim == 3:
                meta = {**meta, SLICE_STEPS: steps_of_affine(meta["affine"], array.shape[2])}
            if part is not None and array.ndim == 3:
                part, around = self._with_halo(part, array.shape[2])
                array, meta = array[..., part], {**meta, **around, **_steps_within(meta, part)}
            array = array[None]
        if self.modality == "MR" and part is not None:
            meta = {**meta, "intensity_range": _file_range(path)}
        if self.modality == "CT":
            meta = {**meta, "unit": "HU", "hu_offset": self.hu_offset or 0.0}
            array = array + np.float32(self.hu_offset or 0.0)
        noted = {**self._unit_of_file(path), **self._said(), "source": str(path)}
        return _tensor(array, meta["affine"], {**meta, **noted})

    def _said(self) -> dict[str, str]:
        """The modality of a file that is not DICOM is what the user says."""
        return {} if self.modality is None else {"modality": self.modality}

    def _unit_of_file(self, path: Path) -> dict[str, Any]:
        if self.suv.factor is not None:
            return {"unit": "Bq/ml", "suv_factor": self.suv.factor}
        if self.suv != SUVOptions():
            raise ValueError(f"{path} has no DICOM header to work out the SUV with: give --suv-factor alone.")
        return {}

    def _load_series(self, path: Path, series_uid: str, part: slice | None) -> MetaTensor:
        whole = part is None
        if part is None:
            series = read_series(path, series_uid or None, self.modality, self.allow_gaps)
            part, around = slice(0, series.shape[2]), dict[str, Any]()
        else:
            series = _open_series(path, series_uid, self.modality, self.allow_gaps)
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
            "regular": series.regular,
        }
        if series.modality == "MR" and not whole:
            meta["intensity_range"] = _series_range(path, series_uid, self.modality, self.allow_gaps)
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
            return {"suv_factor": suv_factor(series.datasets, self.suv, str(series.source.name))}
        except SUVError as error:
            return {"suv_missing": str(error)}  # an error only where the SUV is needed


def _steps_within(meta: Mapping[str, Any], part: slice) -> dict[str, Any]:
    """The distances of the slices of a part of a volume, where those of the volume are known."""
    return {SLICE_STEPS: meta[SLICE_STEPS][part.start : part.stop - 1]} if SLICE_STEPS in meta else {}


def _part(item: Mapping[Any, Any]) -> slice | None:
    """Return the slices that an item names, or nothing for all of them."""
    if item.get("slice") is not None:
        return slice(int(item["slice"]), int(item["slice"]) + 1)
    stop = int(item.get("stop", 0))
    return slice(int(item["start"]), stop) if stop > 0 else None


def forget() -> None:
    """Forget the series and image kept open between slices: files may have changed since."""
    _open_series.cache_clear()
    _open_image.cache_clear()
    _open_pictures.cache_clear()
    _series_range.cache_clear()
    _file_range.cache_clear()
    _check_file.cache_clear()


def _tensor(array: np.ndarray, affine: np.ndarray, meta: dict[str, Any]) -> MetaTensor:
    values = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))  # a copy: the array may be kept
    meta = {**meta, "affine": torch.as_tensor(np.asarray(affine, dtype=np.float64))}
    return MetaTensor(values, meta=meta)
