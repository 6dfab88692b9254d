"""Maps of an audit as images for other programs: a DICOM Parametric Map beside DICOM, NIfTI beside everything else.

A Parametric Map (DICOM PS3.3 A.75) stores unsigned words of 16 bits, whose Real World Value Mapping (C.7.6.16.2.11)
gives the values back. It needs the package highdicom, the extra ``maps``; without it, NIfTI is written.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom.uid import generate_uid

from medrestore_monai import __version__
from medrestore_monai.audit.volume import Volume
from medrestore_monai.notes import note

HEADERS = "headers"  # in Volume.about: one dataset per slice, of classic DICOM
_LARGEST = 65535
_UNITS = {"HU": ("[hnsf'U]", "Hounsfield unit"), "Bq/ml": ("Bq/ml", "Becquerels/milliliter")}
_NO_UNIT = ("1", "no units")


@dataclass(frozen=True, eq=False)
class Map:
    """Values of each voxel of an image.

    Args:
        name: of the file, and of the content in DICOM; letters.
        words: what it is.
        values: shape ``(X, Y, Z)``.
        unit: of the values, such as HU or 1.
    """

    name: str
    words: str
    values: np.ndarray
    unit: str


def write_map(folder: Path, one: Map, image: Volume) -> Path:
    """Write a map to a folder.

    Args:
        folder: an existing one.
        one: the map.
        image: what it belongs to; with the headers of its slices, a Parametric Map is written.

    Returns:
        ``NAME.dcm`` or ``NAME.nii.gz``.

    Raises:
        OSError: it cannot be written.
    """
    headers = image.about.get(HEADERS) or []
    if len(headers) == image.slices and find_spec("highdicom") is not None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they may quote a header
                dataset = _parametric_map(one, headers)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # what the header lacks
            note(f"{one.name}: written as NIfTI, since highdicom takes no such header ({type(error).__name__}).")
        else:
            path = folder / f"{one.name}.dcm"
            dataset.save_as(path)
            return path
    path = folder / f"{one.name}.nii.gz"
    affine = np.diag([*image.spacing, 1.0]) if image.affine is None else image.affine
    nib.save(nib.Nifti1Image(one.values, affine, dtype=np.uint16), path)  # nibabel chooses slope and intercept
    return path


def stored_values(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return words of 16 bits, and slope and intercept that give the values back to half a slope; 0 stays 0."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    slope = (high - low) / (_LARGEST - 1) or 1.0
    steps = round(-low / slope)  # a whole number of steps below 0
    stored = np.clip(np.rint(values / slope) + steps, 0, _LARGEST).astype(np.uint16)
    return stored, slope, -steps * slope


def _parametric_map(one: Map, headers: list[Any]) -> Any:
    """Return the map as a DICOM object on the grid of the source's slices."""
    import highdicom

    stored, slope, intercept = stored_values(one.values)
    value, meaning = _UNITS.get(one.unit, _NO_UNIT)
    mapping = highdicom.pm.RealWorldValueMapping(
        lut_label=one.name.upper()[:16],
        lut_explanation=one.words[:64],
        unit=highdicom.sr.CodedConcept(value, "UCUM", meaning),
        value_range=(0, _LARGEST),
        slope=slope,
        intercept=intercept,
    )
    window = highdicom.VOILUTTransformation(window_center=float(_LARGEST / 2), window_width=float(_LARGEST))
    return highdicom.pm.ParametricMap(
        headers,
        np.ascontiguousarray(stored.transpose(2, 1, 0)),  # (slices, rows, columns)
        series_instance_uid=generate_uid(),
        series_number=9000,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="medrestore-monai",
        manufacturer_model_name="medrestore audit",
        software_versions=__version__,
        device_serial_number="research",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[window],
        content_label=one.name.upper()[:16],
        content_description=one.words[:64],
        content_qualification="RESEARCH",
    )
