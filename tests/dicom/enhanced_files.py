"""Enhanced multi-frame files, made of the single slices of a phantom series."""

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2.1",
    "MR": "1.2.840.10008.5.1.4.1.1.4.1",
    "PT": "1.2.840.10008.5.1.4.1.1.130",
}
LEGACY_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128.1",
}
#: What a converted file has at its top: of the patient, the study, the series and the pixels.
_KEPT = ("SOPClassUID", "SOPInstanceUID", "Modality", "Manufacturer", "PixelData", "ImageType", "FrameOfReferenceUID")
_KEPT += ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime")
_KEPT += ("StudyID", "AccessionNumber", "ReferringPhysicianName", "SeriesInstanceUID", "SeriesNumber", "SeriesDate")
_KEPT += ("SeriesTime", "InstanceNumber", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns")
_KEPT += ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PositionReferenceIndicator")
_PER_FRAME = ("PixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient", "PixelData")
_PER_FRAME += ("RescaleSlope", "RescaleIntercept", "RescaleType", "EchoTime", "KVP", "AcquisitionNumber", "Units")
_PER_FRAME += ("ScanningSequence", "SequenceVariant", "ScanOptions", "EchoTrainLength", "RepetitionTime")
_PER_FRAME += ("FrameReferenceTime", "ActualFrameDuration", "DecayCorrection", "CorrectedImage", "SeriesType")
_PER_FRAME += (
    "Laterality",
    "PositionReferenceIndicator",
    "CountsSource",
    "NumberOfSlices",
    "ImageIndex",
    "CollimatorType",
    "DecayFactor",
)


def item(**values):
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return Sequence([ds])


def make_enhanced(path, files, times=None, pixels=None, **values):
    """Put single slices into one enhanced file; ``times`` are the Temporal Position Indices of the frames."""
    slices = [pydicom.dcmread(file) for file in files]
    first = slices[0]
    ds = pydicom.dcmread(files[0])
    for keyword in _PER_FRAME:
        if keyword in ds:
            delattr(ds, keyword)
    modality = str(first.Modality)
    ds.SOPClassUID, ds.SOPInstanceUID = CLASSES[modality], generate_uid(entropy_srcs=[str(path)])
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.InstanceNumber, ds.NumberOfFrames = 1, len(slices)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.DimensionIndexSequence = [
        item(DimensionIndexPointer=tag, FunctionalGroupPointer=0x00209111)[0] for tag in (0x00209128, 0x00209057)
    ]
    shared = Dataset()
    shared.PixelMeasuresSequence = item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=first.ImageOrientationPatient)
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for number, one in enumerate(slices):
        time = 1 if times is None else times[number]
        frame = Dataset()
        frame.FrameContentSequence = item(
            FrameAcquisitionDateTime=f"2020010210{10 + time:02d}12",
            FrameReferenceDateTime=f"2020010210{11 + time:02d}12",
            FrameAcquisitionDuration=120000.0,
            FrameAcquisitionNumber=time,
            DimensionIndexValues=[time, number + 1],
            TemporalPositionIndex=time,
            StackID="1",
        )
        frame.PlanePositionSequence = item(ImagePositionPatient=one.ImagePositionPatient)
        _MORE[modality](frame, one)
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    data = b"".join(one.PixelData for one in slices) if pixels is None else pixels
    ds.add_new(0x7FE00010, "OW", data)
    if modality == "PT":
        _of_pet(ds)
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path)
    return path


def make_legacy(path, files):
    """Convert single slices as PS3.3 A.70 to A.72 have it: what has no place in the new groups is put aside."""
    slices = [pydicom.dcmread(file) for file in files]
    ds = pydicom.dcmread(files[0])
    modality = str(ds.Modality)
    aside = [element.keyword for element in ds if element.keyword not in _KEPT]
    for keyword in [*aside, "PixelData"]:
        delattr(ds, keyword)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = LEGACY_CLASSES[modality]
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    ds.InstanceNumber, ds.NumberOfFrames, ds.ImageType = 1, len(slices), ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    alike = [name for name in aside if all(one.get(name) == slices[0].get(name) for one in slices)]
    in_groups = ("PixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient")
    in_groups += ("RescaleSlope", "RescaleIntercept", "RescaleType", "PixelData", "ImageType")
    shared, frames = Dataset(), []
    shared.UnassignedSharedConvertedAttributesSequence = _some(slices[0], alike, in_groups)
    shared.PixelMeasuresSequence = _some(slices[0], ("PixelSpacing", "SliceThickness"))
    shared.PlaneOrientationSequence = _some(slices[0], ["ImageOrientationPatient"])
    for number, one in enumerate(slices):
        frame = Dataset()
        frame.FrameContentSequence = item(
            FrameAcquisitionDateTime=one.AcquisitionDate + one.AcquisitionTime,
            StackID="1",
            InStackPositionNumber=number,
        )
        frame.PlanePositionSequence = _some(one, ["ImagePositionPatient"])
        frame.PixelValueTransformationSequence = item(
            RescaleSlope=one.get("RescaleSlope", 1), RescaleIntercept=one.get("RescaleIntercept", 0), RescaleType="US"
        )
        frame.ConversionSourceAttributesSequence = item(
            ReferencedSOPClassUID=one.SOPClassUID, ReferencedSOPInstanceUID=one.SOPInstanceUID
        )
        frame.UnassignedPerFrameConvertedAttributesSequence = _some(one, set(aside) - set(alike), in_groups)
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(frames)
    ds.add_new(0x7FE00010, "OW", b"".join(one.PixelData for one in slices))
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path)
    return path


def _some(ds, keywords, without=()):
    return item(**{name: ds[name].value for name in sorted(keywords) if name in ds and name not in without})


def _ct(frame, one):
    frame.PixelValueTransformationSequence = item(
        RescaleSlope=one.RescaleSlope, RescaleIntercept=one.RescaleIntercept, RescaleType="HU"
    )
    frame.CTImageFrameTypeSequence = item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    frame.CTXRayDetailsSequence = item(KVP=120)
    frame.CTExposureSequence = item(ExposureTimeInms=500.4, XRayTubeCurrentInmA=200.0, ExposureInmAs=100.2)


def _mr(frame, one):
    frame.MRImageFrameTypeSequence = item(
        FrameType=["ORIGINAL", "PRIMARY", "M", "NONE"], ComplexImageComponent="MAGNITUDE"
    )
    frame.MREchoSequence = item(EffectiveEchoTime=float(one.EchoTime))
    frame.MRTimingAndRelatedParametersSequence = item(RepetitionTime=8.1, FlipAngle=12, EchoTrainLength=1)
    frame.MRFOVGeometrySequence = item(InPlanePhaseEncodingDirection="COLUMN")


def _pet(frame, one):
    frame.PETFrameTypeSequence = item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    unit = item(CodeValue="Bq/ml", CodingSchemeDesignator="UCUM", CodeMeaning="Becquerels/milliliter")
    frame.RealWorldValueMappingSequence = item(
        RealWorldValueSlope=float(one.RescaleSlope), RealWorldValueIntercept=0.0, MeasurementUnitsCodeSequence=unit
    )
    frame.PixelValueTransformationSequence = item(RescaleSlope=1, RescaleIntercept=0, RescaleType="US")


_MORE = {"CT": _ct, "MR": _mr, "PT": _pet}


def _of_pet(ds):
    drug = ds.RadiopharmaceuticalInformationSequence[0]
    del drug.RadiopharmaceuticalStartTime
    drug.RadiopharmaceuticalStartDateTime = "20200102090000"
    ds.DecayCorrected, ds.AttenuationCorrected, ds.ScatterCorrected = "YES", "YES", "NO"
    ds.DecayCorrectionDateTime = "20200102100000"
    ds.PatientPosition = "HFS"
    del ds.PatientOrientationCodeSequence, ds.PatientGantryRelationshipCodeSequence


def values_of(files):
    """Physical values of single slices, shape ``(X, Y, Z)``, by pydicom."""
    slices = [pydicom.dcmread(file) for file in files]
    return np.stack(
        [
            one.pixel_array.T * float(one.get("RescaleSlope", 1)) + float(one.get("RescaleIntercept", 0))
            for one in slices
        ],
        axis=-1,
    ).astype(np.float32)
