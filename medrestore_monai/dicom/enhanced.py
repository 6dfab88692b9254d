"""Enhanced multi-frame CT, MR and PET: each frame gets the header of a classic single slice.

Tables of PS3.3: C.7.6.16 (functional groups), C.8.15 (CT), C.8.13 (MR), C.8.22 (PET); what a classic header must have
is in C.8.2.1, C.8.3.1 and C.8.9.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from medrestore_monai.dicom.attributes import number
from medrestore_monai.dicom.checks import ENHANCED_CLASSES, DicomError
from medrestore_monai.dicom.enhanced_pet import describe_pet, set_decay_factor

#: Elements that only a file of many frames has, or that the frames have of their own.
_OF_MANY = (
    "PixelData",
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DimensionOrganizationSequence",
    "DimensionOrganizationType",
    "DimensionIndexSequence",
    "ConcatenationUID",
    "ConcatenationFrameOffsetNumber",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "SOPInstanceUIDOfConcatenationSource",
)
#: Elements of a frame that help to split a series, and that a classic header has not.
FOR_SPLITTING = ("StackID", "DimensionIndexValues", "PixelPresentation", "ComplexImageComponent")
_SPATIAL = {0x00200032, 0x00209057, 0x00209056, 0x00200037, 0x00209113, 0x00209301}
#: Functional groups, and what each of their elements is called in a classic header.
_SAME: dict[str, dict[str, str]] = {
    "PixelMeasuresSequence": {name: name for name in ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")},
    "PlanePositionSequence": {"ImagePositionPatient": "ImagePositionPatient"},
    "PlaneOrientationSequence": {"ImageOrientationPatient": "ImageOrientationPatient"},
    "FrameContentSequence": {
        "FrameAcquisitionNumber": "AcquisitionNumber",
        "TemporalPositionIndex": "TemporalPositionIdentifier",
        "StackID": "StackID",
    },
    "PixelValueTransformationSequence": {name: name for name in ("RescaleSlope", "RescaleIntercept", "RescaleType")},
    "FrameVOILUTSequence": {name: name for name in ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation")},
    "CardiacSynchronizationSequence": {
        "NominalCardiacTriggerDelayTime": "TriggerTime",
        "NominalPercentageOfCardiacPhase": "NominalPercentageOfCardiacPhase",
    },
    "RespiratorySynchronizationSequence": {
        "NominalPercentageOfRespiratoryPhase": "NominalPercentageOfRespiratoryPhase"
    },
    "MREchoSequence": {"EffectiveEchoTime": "EchoTime"},
    "MRDiffusionSequence": {"DiffusionBValue": "DiffusionBValue"},
    "MRFOVGeometrySequence": {
        "InPlanePhaseEncodingDirection": "InPlanePhaseEncodingDirection",
        "PercentSampling": "PercentSampling",
        "PercentPhaseFieldOfView": "PercentPhaseFieldOfView",
    },
    "MRTimingAndRelatedParametersSequence": {name: name for name in ("RepetitionTime", "FlipAngle", "EchoTrainLength")},
    "MRAveragesSequence": {"NumberOfAverages": "NumberOfAverages"},
    "MRImagingModifierSequence": {"TransmitterFrequency": "ImagingFrequency", "PixelBandwidth": "PixelBandwidth"},
    "PETFrameCorrectionFactorsSequence": {
        name: name for name in ("DecayFactor", "ScatterFractionFactor", "DeadTimeFactor", "SliceSensitivityFactor")
    },
    "CTExposureSequence": {
        "ExposureTimeInms": "ExposureTime",
        "XRayTubeCurrentInmA": "XRayTubeCurrent",
        "ExposureInmAs": "Exposure",
    },
    "CTXRayDetailsSequence": {"KVP": "KVP"},
    "CTReconstructionSequence": {
        "ConvolutionKernel": "ConvolutionKernel",
        "ReconstructionDiameter": "ReconstructionDiameter",
    },
    "CTAcquisitionDetailsSequence": {
        name: name for name in ("RotationDirection", "TableHeight", "GantryDetectorTilt", "DataCollectionDiameter")
    },
}
_FRAME_TYPES = ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence")
_WHOLE_NUMBERS = ("AcquisitionNumber", "ExposureTime", "XRayTubeCurrent", "Exposure", "EchoTrainLength")
#: What a classic header must have, at least without a value.
_EMPTY_IN_ALL = ("PatientOrientation", "PositionReferenceIndicator", "SliceThickness", "Laterality")
_EMPTY = {
    "CT": ("KVP", "AcquisitionNumber"),
    "MR": ("ScanOptions", "MRAcquisitionType", "EchoTime", "EchoTrainLength", "RepetitionTime"),
    "PT": ("CollimatorType", "AcquisitionDate", "AcquisitionTime", "ActualFrameDuration"),
}


def flatten(ds: Dataset, label: str) -> list[Dataset]:
    """Give every frame of an enhanced file the header of a classic slice, without pixel data.

    Args:
        ds: the header of the file.
        label: its name in messages.

    Returns:
        The headers, which may share values: sequences are not to be changed.

    Raises:
        DicomError: the file has no functional groups, so that no frame says where it lies.
    """
    count = int(ds.get("NumberOfFrames") or 1)
    frames = ds.get("PerFrameFunctionalGroupsSequence")
    shared = (ds.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if frames is None or len(frames) != count:
        raise DicomError(
            f"{label} is an enhanced image of {count} frames without functional groups for each, so no frame says "
            "where it lies: export the series again."
        )
    top = Dataset()
    top.update({element.tag: element for element in ds if element.keyword not in _OF_MANY})
    top.file_meta = ds.file_meta
    pointers = [int(item.get("DimensionIndexPointer") or 0) for item in ds.get("DimensionIndexSequence") or []]
    headers = [_header(top, shared, frame, pointers) for frame in frames]
    for index, header in enumerate(headers):
        header.InstanceNumber = index + 1
        if header.Modality == "PT":
            describe_pet(header, _item("RealWorldValueMappingSequence", frames[index], shared), label)
            _set_reference_time(header, _item("FrameContentSequence", frames[index], shared))
    return headers


def _item(name: str, *groups: Dataset) -> Dataset:
    """The first item of a functional group, that of the frame before the shared one; empty if there is none."""
    for group in groups:
        items = group.get(name)
        if items:
            return items[0]
    return Dataset()


def _header(top: Dataset, shared: Dataset, frame: Dataset, pointers: list[int]) -> Dataset:
    ds = Dataset()
    ds.update({element.tag: copy.copy(element) for element in top})  # setting a value changes its element
    ds.file_meta = top.file_meta
    ds.SOPClassUID = ENHANCED_CLASSES[str(top.SOPClassUID)]
    for name in ("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence"):
        _copy(ds, _item(name, frame, shared))
    for name, elements in _SAME.items():
        item = _item(name, frame, shared)
        for theirs, ours in elements.items():
            if item.get(theirs) is not None:
                value = item[theirs].value
                if type(value) is float and dictionary_VR(ours) == "DS":
                    value = format_number_as_ds(value)  # of at most 16 characters
                setattr(ds, ours, round(float(value)) if ours in _WHOLE_NUMBERS else value)
    for name in _FRAME_TYPES:
        item = _item(name, frame, shared)
        if item.get("FrameType"):
            ds.ImageType = list(item.FrameType)
        for keyword in ("PixelPresentation", "ComplexImageComponent"):
            if item.get(keyword):
                setattr(ds, keyword, item.get(keyword))
    _set_moments(ds, _item("FrameContentSequence", frame, shared), pointers)
    if ds.Modality == "MR":
        _describe_mr(ds, frame, shared)
    if ds.Modality == "CT" and "RescaleSlope" in ds:
        ds.RescaleType = ds.get("RescaleType") or "HU"
    for keyword in (*_EMPTY_IN_ALL, *_EMPTY.get(ds.Modality, ())):
        if keyword not in ds:
            setattr(ds, keyword, None if keyword == "SliceThickness" else "")
    return ds


def _copy(ds: Dataset, item: Dataset) -> None:
    ds.update({element.tag: copy.copy(element) for element in item})


def _set_moments(ds: Dataset, content: Dataset, pointers: list[int]) -> None:
    """Set the times of a frame, and those of its dimensions that are not places."""
    acquired = str(content.get("FrameAcquisitionDateTime") or ds.get("AcquisitionDateTime") or "")
    if len(acquired) >= 14:
        ds.AcquisitionDate, ds.AcquisitionTime = acquired[:8], acquired[8:].partition("+")[0].partition("-")[0]
    duration = number(content.get("FrameAcquisitionDuration"))
    if duration is not None and ds.Modality == "PT":
        ds.ActualFrameDuration = round(duration)
    values = content.get("DimensionIndexValues")
    values = [] if values is None else [values] if isinstance(values, int) else list(values)
    if len(values) == len(pointers):
        others = [int(value) for value, tag in zip(values, pointers, strict=True) if tag not in _SPATIAL]
        if others:
            ds.DimensionIndexValues = others


def _set_reference_time(ds: Dataset, content: Dataset) -> None:
    """Set the moment for which a PET frame stands, in ms after that of the series; a converted slice has its own."""
    reference = _moment_of(content.get("FrameReferenceDateTime") or content.get("FrameAcquisitionDateTime"))
    series = _moment_of(f"{ds.get('SeriesDate') or ''}{ds.get('SeriesTime') or ''}")
    if "FrameReferenceTime" not in ds and reference is not None and series is not None:
        ds.FrameReferenceTime = f"{(reference - series).total_seconds() * 1000:.10g}"
    elif "FrameReferenceTime" not in ds:
        ds.FrameReferenceTime = 0
    set_decay_factor(ds)


def _moment_of(text: Any) -> datetime | None:
    """Read a date and time without its zone; ``None`` if it is not valid."""
    text = str(text or "").partition("+")[0].partition("-")[0].strip()
    digits, _, fraction = text.partition(".")
    try:
        return datetime.strptime(f"{digits}.{(fraction or '0')[:6]}", "%Y%m%d%H%M%S.%f")
    except ValueError:
        return None


def _describe_mr(ds: Dataset, frame: Dataset, shared: Dataset) -> None:
    """Set what a classic MR header says of the sequence."""
    direction = _item("MRDiffusionSequence", frame, shared).get("DiffusionGradientDirectionSequence")
    if direction and direction[0].get("DiffusionGradientOrientation"):
        ds.DiffusionGradientOrientation = direction[0].DiffusionGradientOrientation
    if str(ds.get("InPlanePhaseEncodingDirection", "")) not in ("ROW", "COL", ""):
        encoded = {"COLUMN": "COL"}.get(str(ds.InPlanePhaseEncodingDirection))
        if encoded:
            ds.InPlanePhaseEncodingDirection = encoded
        else:
            del ds.InPlanePhaseEncodingDirection
    modifier = _item("MRModifierSequence", frame, shared)
    inverted = str(modifier.get("InversionRecovery") or "") == "YES"
    times = modifier.get("InversionTimes")
    if inverted and times is not None:
        ds.InversionTime = times if isinstance(times, float) else next(iter(times), None)
    if "ScanningSequence" not in ds:
        kind = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}
        sequence = kind.get(str(ds.get("EchoPulseSequence") or ""), [])
        sequence += ["IR"] * inverted + ["EP"] * (str(ds.get("EchoPlanarPulseSequence") or "") == "YES")
        ds.ScanningSequence = sequence or ["RM"]
    if "SequenceVariant" not in ds:
        ds.SequenceVariant = "NONE"
    _keep_one_receive_coil(ds, _item("MRReceiveCoilSequence", frame, shared))


def _keep_one_receive_coil(ds: Dataset, coil: Dataset) -> None:
    if coil.get("ReceiveCoilName"):
        ds.ReceiveCoilName = str(coil.ReceiveCoilName)[:16]


def number_pet_slices(stacks: Iterable[list[Dataset]]) -> None:
    """Number the slices of enhanced PET as a classic series does, once they are in order (C.8.9.4.1.9)."""
    stacks = list(stacks)
    for time, headers in enumerate(stacks):
        for index, ds in enumerate(headers):
            ds.SeriesType = ["DYNAMIC" if len(stacks) > 1 else "STATIC", "IMAGE"]
            ds.NumberOfSlices = len(headers)
            ds.ImageIndex = time * len(headers) + index + 1
            if len(stacks) > 1:
                ds.NumberOfTimeSlices = len(stacks)
