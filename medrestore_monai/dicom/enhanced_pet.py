"""What a classic PET header says of unit, corrections and decay, from that of an enhanced PET image (PS3.3 C.8.22)."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset

from medrestore_monai.dicom.attributes import number
from medrestore_monai.dicom.checks import DicomError

_UNITS = {"bq/ml": "BQML", "{counts}": "CNTS", "g/ml{suvbw}": "GML"}
_CORRECTIONS = {
    "DecayCorrected": "DECY",
    "AttenuationCorrected": "ATTN",
    "ScatterCorrected": "SCAT",
    "DeadTimeCorrected": "DTIM",
    "GantryMotionCorrected": "MOTN",
    "PatientMotionCorrected": "PMOT",
    "CountLossNormalizationCorrected": "CLN",
    "RandomsCorrected": "RAN",
    "NonUniformRadialSamplingCorrected": "RADL",
    "SensitivityCalibrated": "DCAL",
    "DetectorNormalizationCorrection": "NORM",
}


def describe_pet(ds: Dataset, mapping: Dataset, label: str) -> None:
    """Set unit, slope, corrections and the reference of the decay.

    Args:
        ds: the header of a frame, which is changed.
        mapping: its item of Real World Value Mapping.
        label: name of the file in messages.

    Raises:
        DicomError: the unit is unknown, or the mapping is no slope.
    """
    if "Units" in ds:  # converted from a classic series
        return
    unit = (mapping.get("MeasurementUnitsCodeSequence") or [Dataset()])[0].get("CodeValue", "")
    if str(unit).lower() not in _UNITS or mapping.get("RealWorldValueSlope") is None:
        raise DicomError(
            f"{label} does not map its values to Bq/ml, counts or SUV by a slope: export the series with one of them."
        )
    ds.Units = _UNITS[str(unit).lower()]
    ds.RescaleSlope = _text(mapping.RealWorldValueSlope)
    ds.RescaleIntercept = _text(mapping.get("RealWorldValueIntercept") or 0)
    if ds.Units == "GML":
        ds.SUVType = "BW"
    ds.CountsSource = "EMISSION"
    ds.CorrectedImage = [term for keyword, term in _CORRECTIONS.items() if str(ds.get(keyword) or "") == "YES"]
    _set_decay(ds)
    if ds.get("PatientPosition"):
        _set_orientation(ds)


def _text(value: Any) -> str:
    return f"{float(value):.10g}"


def _set_decay(ds: Dataset) -> None:
    """Say to which time the decay is corrected; a time of its own becomes that of the series, as ``START`` means it."""
    if str(ds.get("DecayCorrected") or "") != "YES":
        ds.DecayCorrection = "NONE"
        return
    isotope = (ds.get("RadiopharmaceuticalInformationSequence") or [Dataset()])[0]
    moment = str(ds.get("DecayCorrectionDateTime") or "")
    if moment and moment == str(isotope.get("RadiopharmaceuticalStartDateTime") or ""):
        ds.DecayCorrection = "ADMIN"
        return
    ds.DecayCorrection = "START"
    if len(moment) >= 14:
        ds.SeriesDate, ds.SeriesTime = moment[:8], moment[8:].partition("+")[0].partition("-")[0]


def set_decay_factor(ds: Dataset) -> None:
    """Work out by how much a frame's decay was corrected, where its header does not say so (C.8.9.4.1.10)."""
    isotope = (ds.get("RadiopharmaceuticalInformationSequence") or [Dataset()])[0]
    half_life = number(isotope.get("RadionuclideHalfLife"))
    if ds.DecayCorrection != "START" or "DecayFactor" in ds or not half_life:
        return
    ds.DecayFactor = f"{2 ** (float(ds.FrameReferenceTime) / 1000 / half_life):.10g}"


def _set_orientation(ds: Dataset) -> None:
    """Put codes in place of Patient Position, which a classic PET header may not have beside them."""
    position = str(ds.PatientPosition)
    supine = {"S": ("102538003", "recumbent"), "P": ("102538003", "recumbent"), "D": ("102538003", "recumbent")}
    modifier = {"S": ("40199007", "supine"), "P": ("1240000", "prone"), "DR": ("102535000", "right lateral decubitus")}
    modifier["DL"] = ("102536004", "left lateral decubitus")
    gantry = {"HF": ("102540001", "headfirst"), "FF": ("102541002", "feet-first")}
    if position[:2] not in gantry or position[2:] not in modifier:
        return
    orientation = _code(*supine[position[2]])
    orientation.PatientOrientationModifierCodeSequence = [_code(*modifier[position[2:]])]
    ds.PatientOrientationCodeSequence = [orientation]
    ds.PatientGantryRelationshipCodeSequence = [_code(*gantry[position[:2]])]
    del ds.PatientPosition


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", meaning
    return code
