"""What a voxel value means: unit, range and window per modality, to [0, 1] and back without loss.

Networks work on [0, 1]. The scaling is linear and never clips: values outside the range stay outside, and the inferer
carries them past the network.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor, ensure_tuple

from medrestore_monai.notes import note

__all__ = [
    "INTENSITY_RANGES",
    "MOST_SUV",
    "NOT_YET_SUV",
    "PADDING",
    "FromUnitRanged",
    "IntensityRange",
    "LEAST_CT_SPAN",
    "ToUnitRanged",
    "ToWindowd",
    "choose_range",
    "modality_of",
    "scale_from_unit",
    "scale_problem",
    "scale_to_unit",
]

Image = TypeVar("Image", np.ndarray, torch.Tensor)

#: Of an MR volume of unusual values, becomes 1.
MR_PERCENTILE = 99.9
#: HU: the noise of a CT alone spans more, and so do air and tissue.
LEAST_CT_SPAN = 50.0
#: Units of PET that the SUV is worked out from.
NOT_YET_SUV = ("Bq/ml", "counts")
#: No tissue has more: such values are in Bq/ml, or the SUV per unit is wrong.
MOST_SUV = 1000.0
#: Key of the meta data: a mask of voxels that the file gives no value (NaN); they are kept.
PADDING = "padding"
_MOST_BEYOND = 0.01  # of all voxels; what did not get into the vein may have more
_PICTURE_BITS = 16
_GRAY_LEVELS = 255  # of 8 bit without slope and intercept
_FLOAT_OVERSHOOT = 0.5  # filters and earlier processing may leave the range a little
# of counts in SUV up to counts per second in Bq/ml; of HU
_SLOPES, _CT_SLOPES, _MOST_INTERCEPT = (1e-9, 1e5), (1e-4, 100.0), 1e5
_RECORD, _WINDOW = "intensity_range", "intensity_window"


@dataclass(frozen=True)
class IntensityRange:
    """What the values of a modality mean.

    Args:
        modality: DICOM's word where it has one (CT, PT, MR), else RGB or GRAY.
        unit: unit of all values here, such as HU.
        lower: value that becomes 0.
        upper: value that becomes 1.
        window: the range results are evaluated and shown in.
    """

    modality: str
    unit: str
    lower: float
    upper: float
    window: tuple[float, float]

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ValueError(f"lower must be below upper, got {self.lower} and {self.upper}.")


INTENSITY_RANGES = {
    # 4096 HU wide, a power of two: whole HU values come back bit by bit
    "CT": IntensityRange("CT", "HU", -1024.0, 3072.0, (-160.0, 240.0)),
    "PT": IntensityRange("PT", "SUV", 0.0, 20.0, (0.0, 20.0)),
    "MR": IntensityRange("MR", "arbitrary units", 0.0, 4095.0, (0.0, 4095.0)),
    "RGB": IntensityRange("RGB", "gray levels", 0.0, 255.0, (0.0, 255.0)),
    "GRAY": IntensityRange("GRAY", "gray levels", 0.0, 255.0, (0.0, 255.0)),
}


def scale_to_unit(image: Image, intensity: IntensityRange) -> Image:
    """Map ``intensity.lower..upper`` to 0..1, linearly and without clipping.

    Args:
        image: any shape, in ``intensity.unit``; integers become float32.
        intensity: the range.
    """
    return (_floating(image) - intensity.lower) / (intensity.upper - intensity.lower)


def scale_from_unit(image: Image, intensity: IntensityRange) -> Image:
    """Undo :func:`scale_to_unit`: exact for whole HU, to float rounding (under half a gray level) else.

    Args:
        image: any shape, scaled to [0, 1].
        intensity: the range, in whose unit the result is.
    """
    return _floating(image) * (intensity.upper - intensity.lower) + intensity.lower


def choose_range(
    image: Image,
    modality: str,
    dtype: str | None = None,
    unit: str | None = None,
    suv_factor: float | None = None,
) -> IntensityRange:
    """Choose the range of one whole image or volume.

    CT and PT have one range each; that of PT in Bq/ml or counts is the SUV range divided by ``suv_factor``. MR has no
    unit: where a volume exceeds 4095 or stays below a quarter of it, its own 99.9th percentile takes the place of 4095.
    RGB and GRAY use 0..255 for 8 bit, the least number of bits that holds all values for 16 bit (0..4095 for a camera
    of 12 bit), and 0..1 for floats.

    Args:
        image: any shape, finite, before scaling.
        modality: a key of :data:`INTENSITY_RANGES`.
        dtype: NumPy's name of the type the file holds; ``None``: unknown, taken as 8 bit.
        unit: unit of ``image`` if known, compared with that of the range; PET of no unit is taken as SUV.
        suv_factor: SUV per unit, for PET in Bq/ml or counts.

    Raises:
        ValueError: for an unknown modality, another unit than the modality's, PET in Bq/ml or counts without
            ``suv_factor``, PET of SUV over 1000 in more than 1 % of it, or of no unit with such values, CT of 8 bit,
            or a picture of unknown type with values over 255, of floats far from 0..1, of more than 16 bit or with
            values below 0.
    """
    if modality not in INTENSITY_RANGES:
        raise ValueError(f"modality must be one of {', '.join(INTENSITY_RANGES)}, got {modality!r}.")
    intensity = INTENSITY_RANGES[modality]
    if modality == "PT":
        return _pet_range(image, intensity, unit, suv_factor)
    if unit is not None and modality == "CT" and unit != intensity.unit:
        raise ValueError(f"{modality} values must be in {intensity.unit}, got {unit}.")
    if modality == "MR":
        return _mr_range(image, intensity)
    if modality in ("RGB", "GRAY"):
        return _picture_range(image, intensity, dtype)
    if dtype in ("uint8", "int8") and unit is None and float(image.max() - image.min()) <= _GRAY_LEVELS:
        raise ValueError("CT values in HU do not fit into 8 bit: these are gray levels or labels.")
    return intensity


def _pet_range(
    image: np.ndarray | torch.Tensor, intensity: IntensityRange, unit: str | None, suv_factor: float | None
) -> IntensityRange:
    if unit in NOT_YET_SUV:
        if suv_factor is None or not suv_factor > 0:
            raise ValueError(f"PT values in {unit} need their SUV per unit, suv_factor, got {suv_factor}.")
        beyond = float(torch.as_tensor(image > MOST_SUV / suv_factor).float().mean())
        if beyond > _MOST_BEYOND:
            raise ValueError(
                f"{100 * beyond:.0f} % of the PET values are over SUV {MOST_SUV:g}, which cannot be: check weight, "
                "dose, half life and times of the header, or give `suv_factor`."
            )
        upper = intensity.upper / suv_factor
        return replace(intensity, unit=unit, upper=upper, window=(0.0, upper))
    if unit not in (None, intensity.unit):
        raise ValueError(f"PT values must be in SUV, Bq/ml or counts, got {unit}.")
    if unit is None and float(image.max()) > MOST_SUV:
        raise ValueError(
            f"PET values up to {float(image.max()):g} are no SUV: give the SUV per unit of the image, `suv_factor`."
        )
    return intensity


def _mr_range(image: np.ndarray | torch.Tensor, intensity: IntensityRange) -> IntensityRange:
    values = torch.as_tensor(image).cpu().numpy()
    return mr_range(float(image.max()), lambda: float(np.percentile(values, MR_PERCENTILE)), intensity)


def mr_range(
    largest: float, percentile: Callable[[], float], intensity: IntensityRange = INTENSITY_RANGES["MR"]
) -> IntensityRange:
    """Choose the range of an MR volume, as :func:`choose_range`, from what is known of it.

    Args:
        largest: of its values.
        percentile: returns their :data:`MR_PERCENTILE`.
        intensity: the usual range.
    """
    if intensity.upper / 4 <= largest <= intensity.upper or largest <= 0:
        return intensity
    upper = percentile()
    upper = upper if upper > 0 else largest  # nearly all of the volume is background
    return replace(intensity, upper=upper, window=(0.0, upper))


def _picture_range(image: np.ndarray | torch.Tensor, intensity: IntensityRange, dtype: str | None) -> IntensityRange:
    smallest, largest = float(image.min()), float(image.max())
    if dtype is None:
        if largest > intensity.upper:
            raise ValueError(f"The picture has values up to {largest:g}: say the type its file holds.")
        return intensity
    kind, bits = np.dtype(dtype).kind, 8 * np.dtype(dtype).itemsize
    if kind == "f":
        if not -_FLOAT_OVERSHOOT <= smallest <= largest <= 1 + _FLOAT_OVERSHOOT:
            raise ValueError(f"pictures of type {dtype} have values from 0 to 1, got {smallest:g} to {largest:g}.")
        upper = 1.0
    elif bits > _PICTURE_BITS or smallest < 0:
        raise ValueError(f"pictures have 8 or 16 bit and no value below 0, got {dtype} from {smallest:g}.")
    else:
        # cameras of 10, 12 and 14 bit write files of 16
        used = max(8, min(int(largest).bit_length(), bits)) if bits == _PICTURE_BITS else 8
        upper = float(2**used - 1)
    return replace(intensity, upper=upper, window=(0.0, upper))


def scale_problem(slope: float, intercept: float, modality: str | None = None) -> str:
    """What is wrong with the slope and intercept from stored to physical values, as the end of a sentence.

    Args:
        slope: of a header.
        intercept: of a header.
        modality: of the image, if known.

    Returns:
        Nothing where they can be those of a scanner or a converter.
    """
    least, most = _CT_SLOPES if modality == "CT" else _SLOPES
    if least <= abs(slope) <= most and abs(intercept) <= _MOST_INTERCEPT:
        return ""
    return f"the slope {slope:g} and the intercept {intercept:g}, which no image in a physical unit can have"


def modality_of(image: Any, key: Hashable = "image") -> str:
    """Return the modality that a loader noted in the meta data of an image, from a DICOM header or the user's word.

    Args:
        image: a MetaTensor.
        key: what the message calls an image without a source.

    Raises:
        ValueError: no modality is noted, or none of :data:`INTENSITY_RANGES`.
    """
    meta = getattr(image, "meta", {})
    modality = meta.get("modality")
    if modality not in INTENSITY_RANGES:
        name = meta.get("source") or meta.get("filename_or_obj") or f"the image {key!r}"
        which = "names no modality" if modality is None else f"has the modality {modality}"
        raise ValueError(f"{name} {which}: give its `modality`: CT, MR or PT.")
    return str(modality)


class ToUnitRanged(MapTransform):
    """Scale images in their physical unit to [0, 1], without clipping, and note the range in the meta data.

    The range comes from the first key and serves all, so that pairs stay comparable. Where that image's meta data has
    an ``intensity_range`` already (a caller that reads a volume in slabs knows that of the whole), it is used.
    ``unit``, ``suv_factor`` and ``original_dtype`` are read from the meta data where a reader has put them, and
    ``suv_missing``, which says why a PET series in Bq/ml or counts has no ``suv_factor``. Of MR, voxels without a
    value do not count, see :data:`PADDING`.

    Args:
        keys: keys of the images, such as ``["image", "label"]``.
        modality: a key of :data:`INTENSITY_RANGES`; ``None``: the image's own, see :func:`modality_of`.
        allow_missing_keys: leave out keys that are not there, such as ``label`` in inference.

    Raises:
        ValueError: for an unknown modality; on a call, for NaN or infinite values and as :func:`choose_range`.

    Warns:
        UserWarning: CT that a file, not a DICOM header, calls so has no value below 0.
    """

    def __init__(self, keys: KeysCollection, modality: str | None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if modality is not None and modality not in INTENSITY_RANGES:
            raise ValueError(f"modality must be one of {', '.join(INTENSITY_RANGES)}, got {modality!r}.")
        self.modality = modality

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images scaled.

        Each is a MetaTensor with ``intensity_range`` and ``intensity_window``, both ``[lo, hi]`` in the physical unit.
        """
        out = dict(data)
        intensity: IntensityRange | None = None
        for key in self.key_iterator(out):
            image = convert_to_tensor(out[key], track_meta=True)
            _check_finite(image, key)
            if intensity is None:
                intensity = self._range(image, self.modality or modality_of(image, key))
            scaled = scale_to_unit(image, intensity)
            noted = {_RECORD: [intensity.lower, intensity.upper], _WINDOW: [float(end) for end in intensity.window]}
            scaled.meta = {**image.meta, **noted}
            out[key] = scaled
        return out

    def _range(self, image: MetaTensor, modality: str) -> IntensityRange:
        meta = image.meta
        if _RECORD in meta:
            usual = INTENSITY_RANGES[modality]
            lower, upper = (float(v) for v in meta[_RECORD])
            window = usual.window if (lower, upper) == (usual.lower, usual.upper) else (lower, upper)
            return replace(usual, lower=lower, upper=upper, window=window)
        if modality == "PT" and meta.get("unit") in NOT_YET_SUV and "suv_factor" not in meta and "suv_missing" in meta:
            raise ValueError(str(meta["suv_missing"]))
        if modality == "CT" and meta.get("unit") is None and float(image.min()) >= 0:
            name = meta.get("filename_or_obj", "an image")
            note(f"{name} has no value below 0, though air has -1000 HU: is this CT in HU?", stacklevel=2)
        if modality in ("RGB", "GRAY") and meta.get("scl_slope", 1.0) != 1:
            raise ValueError(
                f"{meta.get('filename_or_obj', 'The image')} has a calibration, so that its values are no gray levels: "
                "take it away, in ImageJ with Analyze > Calibrate and the function None, or give its `modality`."
            )
        values = image.as_tensor()
        if modality == "MR" and PADDING in meta:  # as in the range of slabs, voxels without a value do not count
            values = values[:, ~torch.as_tensor(meta[PADDING]).to(values.device)]
        return choose_range(values, modality, meta.get("original_dtype"), meta.get("unit"), meta.get("suv_factor"))


class FromUnitRanged(MapTransform):
    """Bring images scaled to [0, 1] back to the physical unit of ``like``, with the range noted there.

    Args:
        keys: keys of the images, such as ``["pred", "label"]``.
        like: key of an image that :class:`ToUnitRanged` scaled; it may be among ``keys``.
        allow_missing_keys: leave out keys that are not there.

    Raises:
        ValueError: on a call, if ``like`` has no ``intensity_range`` in its meta data.
    """

    def __init__(self, keys: KeysCollection = "pred", like: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.like = like

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images in their physical unit; their note of a range is gone."""
        out = dict(data)
        meta = getattr(out.get(self.like), "meta", {})
        if _RECORD not in meta:
            raise ValueError(f"{self.like!r} has no {_RECORD} in its meta data: scale it with ToUnitRanged first.")
        lower, upper = (float(v) for v in meta[_RECORD])
        intensity = IntensityRange("", "", lower, upper, (lower, upper))
        for key in self.key_iterator(out):
            image = convert_to_tensor(out[key], track_meta=True)
            restored = scale_from_unit(image, intensity)
            restored.meta = {name: value for name, value in image.meta.items() if name not in (_RECORD, _WINDOW)}
            out[key] = restored
        return out


def scale_from_noted(image: Any) -> torch.Tensor:
    """Return an image in its physical unit, whether or not :class:`ToUnitRanged` has scaled it."""
    noted = getattr(image, "meta", {}).get(_RECORD)
    tensor = convert_to_tensor(image, track_meta=False)
    if noted is None:
        return tensor
    lower, upper = (float(value) for value in noted)
    return scale_from_unit(tensor, IntensityRange("", "", lower, upper, (lower, upper)))


class ToWindowd(MapTransform):
    """Bring images to the window in which ``like`` is evaluated: its ends become 0 and 1.

    One metric of the data range 1 then scores every modality: CT in [-160, 240] HU, PET in [0, 20] SUV, MR in the range
    of its volume. Nothing is clipped.

    Args:
        keys: keys of the images, such as ``["pred", "label"]``.
        like: key of an image that :class:`ToUnitRanged` scaled; it may be among ``keys``.
        names: keys for the results, one for each of ``keys``, which then stay; by default they are replaced.
        scaled: the images are scaled to [0, 1], as ``like`` is; else they are in its physical unit.
        allow_missing_keys: leave out keys that are not there.

    Raises:
        ValueError: for another count of names; on a call, if ``like`` has no ``intensity_window`` in its meta data.
    """

    def __init__(
        self,
        keys: KeysCollection,
        like: str = "image",
        names: KeysCollection | None = None,
        scaled: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.like, self.scaled = like, scaled
        self.names = self.keys if names is None else ensure_tuple(names)
        if len(self.names) != len(self.keys):
            raise ValueError(f"expected a name for each of {len(self.keys)} keys, got {len(self.names)}.")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images in their window, as plain tensors."""
        out = dict(data)
        meta = getattr(out.get(self.like), "meta", {})
        if _WINDOW not in meta:
            raise ValueError(f"{self.like!r} has no {_WINDOW} in its meta data: scale it with ToUnitRanged first.")
        lower, upper = (float(v) for v in meta[_RECORD]) if self.scaled else (0.0, 1.0)
        first, last = ((float(end) - lower) / (upper - lower) for end in meta[_WINDOW])
        for key, name in self.key_iterator(out, self.names):
            image = convert_to_tensor(out[key], track_meta=False)
            out[name] = (image - first) / (last - first)
        return out


def _floating(image: Image) -> Image:
    if isinstance(image, torch.Tensor):
        return image if image.is_floating_point() else image.float()
    return image if image.dtype.kind == "f" else image.astype(np.float32)


def _check_finite(image: MetaTensor, key: Hashable) -> None:
    bad = int((~torch.isfinite(image.as_tensor())).sum())
    if bad:
        name = image.meta.get("filename_or_obj", f"The image {key!r}")
        raise ValueError(f"{name} has {bad} NaN or infinite values: expected finite ones.")
