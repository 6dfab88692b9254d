"""What a DICOM slice and a DICOM series must fulfill before a voxel of them is used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from medrestore_monai.intensity import LEAST_CT_SPAN, scale_problem
from medrestore_monai.quiet import quiet

#: The images that can be restored: their SOP class and the modality each one belongs to.
IMAGE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",
}
#: X-ray images, which lie at no place in the patient.
XRAY = ("CR", "DX")
#: Images of the same modalities that hold many slices in one file, and the class of one such slice: enhanced ones and
#: those converted from single slices; also enhanced MR in color, which is refused by its samples.
ENHANCED_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2.1": "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.2": "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4.1": "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.4.3": "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.4.4": "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.128.1": "1.2.840.10008.5.1.4.1.1.128",
    "1.2.840.10008.5.1.4.1.1.130": "1.2.840.10008.5.1.4.1.1.128",
}
#: What may not differ within a series, and what may not within a stack.
_OF_SERIES = ("StudyInstanceUID", "Modality")
_OF_STACK = ("PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation")
#: Words of Image Type (0008,0008), from the third value on: MR that is no magnitude, and maps that were computed.
_NO_MAGNITUDE = {"P", "PHASE", "R", "REAL", "I", "IMAGINARY", "VELOCITY"}
_DIXON = re.compile("(IN|OUT|OUT_OF|OPP|OPPOSED)[_ ]PHASE")  # magnitudes, whatever their name
_MAPS = {"RCBF", "RCBV", "RBF", "RBV", "MTT", "TTP", "TMAX", "ADC", "FA", "T1_MAP", "T2_MAP", "T2STAR_MAP", "R1_MAP"}
_MAPS |= {"R2_MAP", "R2STAR_MAP", "FIELD_MAP", "SUBTRACTION", "STD_DEVIATION", "DIVISION", "MULTIPLICATION"}
_MAPS |= {"FAT_FRACTION", "WATER_FRACTION"}
_UNITS_OF_MAPS = {"HZ", "MS", "S", "1/S", "RAD", "PPM", "MM2/S", "CM/S", "%"}
_MAGNITUDE = "take the magnitude or source series"
_SLACK = 1 << 20  # bytes that compressed pixels may have, whatever their number
_MAX_PIXELS = 1 << 26  # 8192 x 8192: beyond it a compressed slice is refused before it is unpacked


class DicomError(ValueError):
    """A DICOM file or series cannot be used; the message is one sentence that names it and says why."""


@contextmanager
def reading(label: str) -> Iterator[None]:
    """Turn whatever a file makes pydicom and its decoders raise into one :class:`DicomError`.

    Neither the error nor a warning of pydicom may show what the header holds: it may name the patient.

    Args:
        label: name of the file in the message.
    """
    try:
        with quiet():
            yield
    except DicomError:
        raise
    except RecursionError:
        raise DicomError(f"{label}: its sequences are nested too deeply to be read; export it again.") from None
    except OSError as error:
        raise DicomError(f"{label} cannot be read: {error.strerror or type(error).__name__}.") from None
    except Exception as error:  # a parser may raise anything on damaged data
        raise DicomError(
            f"{label} is damaged or cut short: {type(error).__name__} in its DICOM header; copy or export it again."
        ) from None


def check_layout(ds: Dataset, label: str, frames: int = 1) -> None:
    """Refuse a file whose pixel data are not so many frames of integers that the low bits hold.

    Args:
        ds: its header, with the pixel data.
        label: name of the file in the message.
        frames: how many there must be.

    Raises:
        DicomError: an odd bit layout, or too little or too much data.
    """
    with reading(label):
        _check_layout(ds, label, frames)


def check_header(ds: Dataset, label: str) -> None:
    """Refuse the header of what is not one plain CT, MR or PET slice or X-ray image.

    Args:
        ds: the header of a slice.
        label: name of the file in the message.

    Raises:
        DicomError: other kind of object, a look-up table, unknown unit.
    """
    with reading(label):
        _check_kind(ds, label)
        _check_values(ds, label)
        for keyword in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"):
            floats(ds.get(keyword) or ())  # raises where they are no numbers


def known_modality(modality: str) -> str:
    """A modality for a message: DICOM's defined terms have two to eight capitals, anything else may be a free text."""
    return modality if re.fullmatch(r"[A-Z]{2,8}", modality) else "unknown"


def kind_problem(sop_class: str, modality: str) -> str:
    """Why objects of this class cannot be restored, as the end of a sentence; empty if they can."""
    name = UID(sop_class).name
    if sop_class not in IMAGE_CLASSES:
        kind = name if name != sop_class else f"an object of {'an unknown' if sop_class else 'no'} SOP class"
        return (
            f"is {kind} (modality {known_modality(modality)}), where CT, MR, PET or X-ray (CR, DX) images are expected"
        )
    if IMAGE_CLASSES[sop_class] != modality:
        return f"has modality {known_modality(modality)} in a {name} object"
    return ""


def _ge_image_kind(ds: Dataset) -> int:
    """What GE's scanners say of an image: 0 magnitude, 1 phase, 2 real, 3 imaginary; 0 where they say nothing."""
    try:
        value = ds.private_block(0x0043, "GEMS_PARM_01")[0x2F].value
        if isinstance(value, bytes):
            value = int.from_bytes(value[:2], "little")
        return int(np.atleast_1d(value)[0])
    except (KeyError, TypeError, ValueError, IndexError):
        return 0


def left_out(ds: Dataset) -> str:
    """Why a frame is left out of a series that holds others: a scout, a phase, a map, color; empty if it is not."""
    kinds = [str(value).strip().upper() for value in ds.get("ImageType", None) or []]
    if "LOCALIZER" in kinds:
        return "a localizer (scout) image, where a slice is expected"
    colors, photometric = ds.get("SamplesPerPixel", 1), ds.get("PhotometricInterpretation", "missing")
    if colors != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2") or ds.get("PixelPresentation") == "COLOR":
        return "a color or palette image, where gray values are expected: take the source series"
    if ds.Modality == "PT" and "REPROJECTION" in list(ds.get("SeriesType", None) or []):
        return "a projection of a volume, where a slice is expected"
    words = {word for kind in kinds[2:] if not _DIXON.fullmatch(kind) for word in re.split("[_ ]", kind)}
    component = str(ds.get("ComplexImageComponent") or "MAGNITUDE")
    if ds.Modality == "MR" and (
        not _NO_MAGNITUDE.isdisjoint(words)
        or component not in ("MAGNITUDE", "MIXED")
        or _ge_image_kind(ds) in (1, 2, 3)
    ):
        return f"a phase, real or imaginary image, where a magnitude is expected: {_MAGNITUDE}"
    if not _MAPS.isdisjoint(kinds[2:]) or (
        ds.Modality == "MR" and str(ds.get("RescaleType") or "").strip().upper() in _UNITS_OF_MAPS
    ):
        return f"a map that was computed, where an image is expected: {_MAGNITUDE}"
    return ""


def _check_kind(ds: Dataset, label: str) -> None:
    problem = kind_problem(str(ds.get("SOPClassUID", "")), str(ds.get("Modality", "")))
    if problem:
        raise DicomError(f"{label} {problem}.")
    frames = ds.get("NumberOfFrames", 1)
    if frames is not None and int(frames) > 1:
        raise DicomError(f"{label} holds {frames} frames in a class of single slices: export the series again.")
    kinds = [str(value).strip() for value in ds.get("ImageType", None) or []]
    if ds.Modality == "MR" and "MOSAIC" in kinds:
        raise DicomError(
            f"{label} is a mosaic of many slices: export the series as enhanced DICOM, or convert it with dcm2niix and "
            "restore the NIfTI file."
        )


def _check_layout(ds: Dataset, label: str, frames: int) -> None:
    needed = (
        "StudyInstanceUID",
        "SOPInstanceUID",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "PixelRepresentation",
    )
    for keyword in needed:
        if ds.get(keyword) in (None, ""):
            raise DicomError(
                f"{label} has no {keyword}: the header is cut short or incomplete; copy or export it again."
            )
    if "FloatPixelData" in ds or "DoubleFloatPixelData" in ds:
        raise DicomError(
            f"{label} holds floating-point pixel data, where integers are expected; export it as integers."
        )
    if "PixelData" not in ds:
        raise DicomError(f"{label} has no pixel data: it is cut short or not an image; copy or export it again.")
    allocated, bits = int(ds.BitsAllocated), int(ds.BitsStored)
    high = int(ds.get("HighBit", bits - 1))
    if (
        allocated not in (8, 16)
        or not 1 <= bits <= allocated
        or high != bits - 1
        or ds.PixelRepresentation not in (0, 1)
    ):
        raise DicomError(
            f"{label} has an unusual bit layout (allocated {allocated}, stored {bits}, high bit {high}), "
            "where 8 or 16 bits allocated and values in the low bits are expected; export it again."
        )
    rows, columns = int(ds.Rows), int(ds.Columns)
    if not (rows > 0 and columns > 0 and rows * columns <= _MAX_PIXELS):
        raise DicomError(
            f"{label} has {columns} columns and {rows} rows, where 1 to {_MAX_PIXELS} pixels are expected; "
            "export it again."
        )
    if ds.file_meta.TransferSyntaxUID.is_compressed:
        declared = frames * rows * columns * allocated // 8
        if len(ds.PixelData) > 2 * declared + _SLACK:
            raise DicomError(
                f"{label} has {len(ds.PixelData)} bytes of compressed pixel data, where its {columns} columns and "
                f"{rows} rows, {frames} time(s), have {declared} in all: it is damaged, or made to harm."
            )
    else:
        row = columns * allocated // 8
        expected, found = frames * rows * row, len(ds.PixelData)
        if found < expected:
            raise DicomError(
                f"{label} is cut short: {found} bytes of pixel data where {expected} are expected; "
                "copy or export it again."
            )
        if found > expected + expected % 2 and (found > expected + row or any(ds.PixelData[expected:])):
            raise DicomError(
                f"{label} holds {found} bytes of pixel data where {expected} are expected; copy or export it again."
            )


def _check_values(ds: Dataset, label: str) -> None:
    if "ModalityLUTSequence" in ds:
        raise DicomError(
            f"{label} maps its values by a modality look-up table, where slope and intercept are expected; "
            "export it with these."
        )
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if ds.get(keyword) is None and (ds.Modality not in ("MR", *XRAY) or keyword in ds):
            raise DicomError(f"{label} has no {keyword}, so the unit of its values is unknown; export it again.")
    slope, intercept = rescale(ds)
    problem = scale_problem(slope, intercept, str(ds.Modality))
    if problem:
        raise DicomError(f"{label} has {problem}; export it again.")
    least, most = _ends(ds)
    if ds.Modality == "CT" and most - least < LEAST_CT_SPAN:
        raise DicomError(
            f"{label} can store {least:g} to {most:g} by its slope and intercept, which cannot be HU; export it in HU."
        )
    if ds.Modality == "PT" and ds.get("Units") not in ("BQML", "CNTS", "GML"):
        raise DicomError(
            f"{label} has other PET units (0054,1001), where BQML (Bq/ml), CNTS (counts) or GML (SUV) is expected; "
            "export it in one of them."
        )
    if ds.Modality == "PT" and ds.Units == "GML" and (ds.get("SUVType") or "BW") != "BW":
        raise DicomError(
            f"{label} has another SUV Type (0054,1006), where SUV by body weight (BW) is expected; export it in that."
        )
    if ds.Modality == "CT" and (ds.get("RescaleType") or "HU") not in ("HU", "US"):
        raise DicomError(f"{label} has another Rescale Type (0028,1054), where HU is expected; export it in HU.")


def rescale(ds: Dataset) -> tuple[float, float]:
    """Slope and intercept from stored values to physical ones; 1 and 0 where the header has none (MR)."""
    return float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))


def _ends(ds: Dataset) -> tuple[float, float]:
    """Least and greatest physical value that a slice can store."""
    slope, intercept = rescale(ds)
    ends = [value * slope + intercept for value in storable(int(ds.BitsStored), bool(ds.PixelRepresentation))]
    return min(ends), max(ends)


def stores_air(ds: Dataset) -> bool:
    """Say whether a CT slice can store a value below 0 HU, as one with a sound slope and intercept can."""
    return _ends(ds)[0] < 0


def gray_range(ds: Dataset) -> tuple[float, float]:
    """Least and greatest value that an X-ray image can have."""
    return _ends(ds)


def storable(bits: int, signed: bool) -> tuple[int, int]:
    """Least and greatest integer of so many bits."""
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def check_alike(datasets: Sequence[Dataset], labels: Sequence[str], whole: bool = False) -> None:
    """Refuse slices that differ in what one stack, or a whole series, has in common.

    Args:
        datasets: headers.
        labels: names of the files in the message.
        whole: they are those of a series.

    Raises:
        DicomError: two studies or modalities in a series, two kinds of stored values in a stack.
    """
    for keyword in _OF_SERIES if whole else _OF_STACK:
        first = datasets[0].get(keyword)
        for ds, label in zip(datasets, labels, strict=True):
            if ds.get(keyword) != first:
                raise DicomError(
                    f"{labels[0]} and {label} differ in {keyword}, though they are of one series: put what belongs "
                    "together into folders of its own."
                )


def floats(values: Sequence[object]) -> np.ndarray:
    """Several DICOM numbers as one array."""
    return np.array([float(v) for v in values])  # type: ignore[arg-type]
