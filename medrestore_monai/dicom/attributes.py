"""Attributes in which the stacks of one series may differ, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

__all__ = ["ATTRIBUTES", "Attribute", "number", "private_value"]


@dataclass(frozen=True)
class Attribute:
    """Something in a header in which stacks may differ.

    Attributes:
        word: for it.
        get: its value: a float, or something that can be compared and sorted; ``None`` if it is missing.
        tolerance: floats that differ by less are one value.
        unit: of floats that are shown; ``None`` for those that mean nothing to a reader.
    """

    word: str
    get: Callable[[Dataset], Any]
    tolerance: float = 0.0
    unit: str | None = None

    def show(self, ds: Dataset) -> str:
        """The value with its unit, if it is a number that a reader understands."""
        value = self.get(ds)
        return f"{value:.6g} {self.unit}".strip() if self.unit is not None and isinstance(value, float) else ""


def number(value: Any) -> float | None:
    """A finite number, or ``None``."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if np.isfinite(found) else None


def private_value(ds: Dataset, group: int, creator: str, element: int) -> Any:
    """The value of a private element, or ``None``; bytes of unknown type come as text or as they are."""
    try:
        return ds.private_block(group, creator)[element].value
    except KeyError:
        return None


def _number_of(keyword: str) -> Callable[[Dataset], float | None]:
    return lambda ds: number(ds.get(keyword))


def _text_of(keyword: str) -> Callable[[Dataset], tuple[str, ...] | None]:
    def get(ds: Dataset) -> tuple[str, ...] | None:
        value = ds.get(keyword)
        if value in (None, ""):
            return None
        return (str(value),) if isinstance(value, str) else tuple(str(one) for one in value)

    return get


def _image_type(ds: Dataset) -> tuple[str, ...] | None:
    return tuple(str(value).strip() for value in ds.get("ImageType") or [])[2:] or None


def _dimensions(ds: Dataset) -> tuple[int, ...] | None:
    values = ds.get("DimensionIndexValues")
    if values is None:
        return None
    return tuple(int(one) for one in np.atleast_1d(values)) or None


def _b_value(ds: Dataset) -> float | None:
    value = number(ds.get("DiffusionBValue"))
    for group, creator, element in ((0x0019, "SIEMENS MR HEADER", 0x0C), (0x2001, "Philips Imaging DD 001", 0x03)):
        if value is None:
            found = private_value(ds, group, creator, element)
            if isinstance(found, bytes) and creator.startswith("Philips") and len(found) == 4:
                found = np.frombuffer(found, "<f4")[0]
            value = number(_first(found))
    if value is None:
        value = number(_first(private_value(ds, 0x0043, "GEMS_PARM_01", 0x39)))
        value = None if value is None else value % 100000
    return value


def _first(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace").strip("\0 ").split("\\")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return value[0] if len(value) else None
    return value


def _gradient(ds: Dataset) -> tuple[float, ...] | None:
    value = ds.get("DiffusionGradientOrientation")
    if value is None:
        value = private_value(ds, 0x0019, "SIEMENS MR HEADER", 0x0E)
        value = np.frombuffer(value, "<f8") if isinstance(value, bytes) and len(value) == 24 else value
    if value is None or isinstance(value, bytes):
        return None
    return tuple(round(float(one), 2) + 0.0 for one in value)


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute("image type", _image_type),
    Attribute("time point", _number_of("TemporalPositionIdentifier")),
    Attribute("dimension", _dimensions),
    Attribute("echo", _number_of("EchoTime"), 0.01, "ms"),
    Attribute("echo", _number_of("EchoNumbers")),
    Attribute("b-value", _b_value, 5.0, "s/mm2"),
    Attribute("gradient", _gradient),
    Attribute("inversion", _number_of("InversionTime"), 1.0, "ms"),
    Attribute("repetition", _number_of("RepetitionTime"), 1.0, "ms"),
    Attribute("flip angle", _number_of("FlipAngle"), 0.5, "degrees"),
    Attribute("cardiac phase", _number_of("NominalPercentageOfCardiacPhase"), 0.5, "%"),
    Attribute("respiratory phase", _number_of("NominalPercentageOfRespiratoryPhase"), 0.5, "%"),
    Attribute("trigger", _number_of("TriggerTime"), 1.0, "ms"),
    Attribute("frame", _number_of("FrameReferenceTime"), 1.0, "ms"),
    Attribute("scan option", _text_of("ScanOptions")),
    Attribute("tube voltage", _number_of("KVP"), 0.5, "kV"),
    Attribute("kernel", _text_of("ConvolutionKernel")),
    Attribute("thickness", _number_of("SliceThickness"), 0.01, "mm"),
    Attribute("acquisition", _number_of("AcquisitionNumber")),
)
