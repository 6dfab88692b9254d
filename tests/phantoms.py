"""Synthetic pictures and synthetic DICOM series, small and always the same.

Pictures are in memory order ``(X, Y)`` or ``(X, Y, Z)``, as everywhere in the package. The series writers return the
files in order of position; ``edit`` changes a header just before it is written, so that any flaw can be made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
MR_CLASS = "1.2.840.10008.5.1.4.1.1.4"
PET_CLASS = "1.2.840.10008.5.1.4.1.1.128"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)  # orthonormal, with every component in play
Edit = Callable[[Dataset, int], None]


def body_phantom(size: int | tuple[int, int] = 64) -> np.ndarray:
    """A slice through a body, shape ``(X, Y)``, float32 HU: air, fat, muscle, liver, kidneys, lung, vessel, spine.

    Nothing in it is symmetric, so that a flip or a swap of axes is seen.
    """
    columns, rows = (size, size) if isinstance(size, int) else size
    x, y = np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-1, 1, rows), indexing="ij")
    hu = np.full((columns, rows), -1000.0, dtype=np.float32)
    for cx, cy, rx, ry, value in (
        (0.0, 0.0, 0.90, 0.70, -100),  # fat under the skin
        (0.0, 0.0, 0.80, 0.60, 40),  # muscle
        (-0.35, -0.10, 0.38, 0.35, 110),  # liver, to the right of the patient
        (-0.45, -0.15, 0.08, 0.08, 70),  # lesion in the liver
        (0.42, 0.18, 0.14, 0.18, 160),  # left kidney
        (-0.30, 0.32, 0.12, 0.12, 160),  # right kidney
        (0.35, -0.28, 0.22, 0.16, -850),  # base of the left lung
        (0.08, 0.12, 0.08, 0.08, 220),  # aorta
        (0.0, 0.40, 0.16, 0.14, 600),  # vertebra
        (0.0, 0.40, 0.08, 0.06, 250),  # its marrow
    ):
        hu[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1] = value
    return hu


def ct_volume(slices: int = 5, size: int | tuple[int, int] = 32, noise: float = 15.0) -> np.ndarray:
    """A stack of :func:`body_phantom`, shape ``(X, Y, Z)``, whole HU, with noise; every level is different."""
    rng = np.random.default_rng(0)
    phantom = body_phantom(size)
    levels = [phantom + 20 * z * (phantom > -200) + noise * rng.standard_normal(phantom.shape) for z in range(slices)]
    return np.clip(np.rint(np.stack(levels, axis=-1)), -1024, 3071).astype(np.float32)


def ct_series(folder: Path, slices: int = 5, size: int | tuple[int, int] = 32, **knobs) -> list[Path]:
    """Write a CT series in HU; the knobs are those of :func:`write_series`."""
    volume = knobs.pop("volume", None)
    volume = ct_volume(slices, size) if volume is None else volume

    def ct(ds: Dataset, index: int) -> None:
        ds.SOPClassUID, ds.Modality = CT_CLASS, "CT"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.RescaleType, ds.KVP, ds.ConvolutionKernel, ds.GantryDetectorTilt = "HU", 120, "B30f", 0
        ds.AcquisitionNumber = 1

    return write_series(folder, volume, ct, **{"intercept": -1024, "signed": False, "bits_stored": 12, **knobs})


def mr_series(folder: Path, slices: int = 5, size: int | tuple[int, int] = 32, **knobs) -> list[Path]:
    """Write an MR series in arbitrary units (0 to 4095), oblique, without rescale attributes unless asked for."""
    volume = knobs.pop("volume", None)
    volume = ct_volume(slices, size) + 1024 if volume is None else volume

    def mr(ds: Dataset, index: int) -> None:
        ds.SOPClassUID, ds.Modality = MR_CLASS, "MR"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "GR", "SP", "", "3D"
        ds.EchoTime, ds.RepetitionTime, ds.EchoTrainLength = 3.5, 8.1, 1
        if "slopes" not in knobs:
            del ds.RescaleSlope, ds.RescaleIntercept

    defaults = {"orientation": OBLIQUE, "signed": False, "bits_stored": 12}
    return write_series(folder, volume, mr, **{**defaults, **knobs})


def mr_echoes(folder: Path, slices: int = 3, size: int | tuple[int, int] = (40, 33)) -> Path:
    """Write one MR series of two echoes, the second of half the signal, and return its folder."""
    for number in (1, 2):

        def edit(ds: Dataset, index: int, number: int = number) -> None:
            ds.EchoTime, ds.SeriesInstanceUID = 5 * number, generate_uid(entropy_srcs=["echoes"])
            ds.InstanceNumber = number * 100 + index

        mr_series(folder, volume=(ct_volume(slices, size) + 1024) // number, series=f"echo{number}", edit=edit)
    return folder


def pet_series(folder: Path, slices: int = 5, size: int | tuple[int, int] = 32, **knobs) -> list[Path]:
    """Write a PET series in Bq/ml with a different slope in every slice."""
    volume = knobs.pop("volume", None)
    if volume is None:
        volume = np.clip(ct_volume(slices, size) + 1000, 0, None) * np.linspace(1, 30, slices)
    slopes = knobs.pop("slopes", [float(f"{max(level.max(), 1) / 32767:.10g}") for level in np.moveaxis(volume, -1, 0)])

    def pet(ds: Dataset, index: int) -> None:
        ds.SOPClassUID, ds.Modality = PET_CLASS, "PT"
        ds.ImageType = ["ORIGINAL", "PRIMARY"]
        ds.Units, ds.CountsSource, ds.SeriesType = "BQML", "EMISSION", ["WHOLE BODY", "IMAGE"]
        ds.CorrectedImage, ds.DecayCorrection, ds.CollimatorType = ["DECY", "ATTN", "SCAT"], "START", "NONE"
        ds.NumberOfSlices, ds.ImageIndex = volume.shape[-1], index + 1
        ds.FrameReferenceTime, ds.ActualFrameDuration, ds.PatientWeight = 1000.0, 120000, 70
        ds.DecayFactor, ds.AttenuationCorrectionMethod = 1.0, "measured"
        drug, nuclide = Dataset(), Dataset()
        nuclide.CodeValue, nuclide.CodingSchemeDesignator, nuclide.CodeMeaning = "C-111A1", "SRT", "^18^Fluorine"
        drug.RadiopharmaceuticalStartTime, drug.RadionuclideTotalDose = "090000", 370000000
        drug.RadionuclideHalfLife, drug.RadionuclideCodeSequence = 6586.2, [nuclide]
        ds.RadiopharmaceuticalInformationSequence = [drug]
        ds.PatientOrientationCodeSequence, ds.PatientGantryRelationshipCodeSequence = [], []
        del ds.PatientPosition  # the two sequences stand in its place

    return write_series(folder, volume, pet, **{"slopes": slopes, "signed": True, "bits_stored": 16, **knobs})


def write_series(
    folder: Path,
    volume: np.ndarray,
    complete: Edit,
    *,
    spacing: tuple[float, float] = (0.75, 0.75),
    distance: float = 2.5,
    positions: Sequence[float] | None = None,
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-100.0, -120.0, 50.0),
    tilt: float = 0.0,
    skip: Sequence[int] = (),
    duplicate: int | None = None,
    slopes: Sequence[float] | None = None,
    intercept: float = 0.0,
    signed: bool = True,
    bits_stored: int = 16,
    series: str = "a",
    reverse_numbers: bool = False,
    edit: Edit | None = None,
) -> list[Path]:
    """Write one file per slice and return the files in order of position.

    Args:
        folder: made if it is not there; file names are in an order unlike that of the positions.
        volume: physical values, shape ``(X, Y, Z)``.
        complete: fills in what a modality needs.
        spacing: distance of rows and of columns in mm, as ``PixelSpacing`` has it.
        distance: from slice to slice in mm.
        positions: of the slices along the normal in mm, instead of ``distance``; for uneven series.
        orientation: the six direction cosines (row, then column).
        origin: center of the first voxel in mm (LPS).
        tilt: gantry tilt in degrees; each slice is then shifted along its columns.
        skip: indices of slices that are left out.
        duplicate: index of a slice that is written twice, under two instance UIDs.
        slopes: rescale slope per slice, else 1.
        intercept: rescale intercept.
        signed: pixel representation.
        bits_stored: of the 16 bits allocated.
        series: name from which the UIDs of the series come; another name makes another series of the same study.
        reverse_numbers: instance numbers run against the positions.
        edit: ``edit(dataset, index)`` changes a header before it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slices = volume.shape[-1]
    cosines = np.asarray(orientation, dtype=float)
    normal = np.cross(cosines[:3], cosines[3:])
    along = np.arange(slices) * distance if positions is None else np.asarray(positions, dtype=float)
    files = []
    for index in [i for i in range(slices) if i not in skip] + ([] if duplicate is None else [duplicate]):
        twin = index == duplicate and len(files) == slices - len(skip)
        ds = _slice_header(series, index, twin)
        ds.Columns, ds.Rows = volume.shape[:2]
        ds.PixelSpacing, ds.SliceThickness = list(spacing), distance
        ds.ImageOrientationPatient = [round(float(c), 8) for c in cosines]
        shift = cosines[3:] * along[index] * np.tan(np.radians(tilt))
        ds.ImagePositionPatient = [round(float(c), 6) for c in np.asarray(origin) + normal * along[index] + shift]
        ds.InstanceNumber = slices - index if reverse_numbers else index + 1
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits_stored, bits_stored - 1
        ds.PixelRepresentation = int(signed)
        ds.RescaleSlope, ds.RescaleIntercept = 1 if slopes is None else slopes[index], intercept
        complete(ds, index)
        if tilt:
            ds.GantryDetectorTilt = tilt
        stored = np.rint((volume[..., index].T - intercept) / (1 if slopes is None else slopes[index]))
        ds.add_new(0x7FE00010, "OW", stored.astype("<i2" if signed else "<u2").tobytes())
        if edit is not None:
            edit(ds, index)
        files.append(_save(ds, folder / f"{series}{(index * 37 + 5) % 97:02d}{'twin' * twin}.dcm"))
    return files


def _slice_header(series: str, index: int, twin: bool) -> Dataset:
    """What all modalities have in common."""
    ds = Dataset()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Canary^Name", "CANARY-ID", "19010203", "O"
    ds.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=["series", series])
    ds.SOPInstanceUID = generate_uid(entropy_srcs=["slice", series, str(index), str(twin)])
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20200102"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "101112"
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName, ds.PositionReferenceIndicator = "1", "", "", ""
    ds.SeriesNumber, ds.SeriesDescription, ds.PatientPosition = 3, f"phantom {series}", "HFS"
    ds.Manufacturer, ds.Laterality = "phantoms", ""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    return ds


def _save(ds: Dataset, path: Path) -> Path:
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength, meta.FileMetaInformationVersion = 0, b"\x00\x01"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = generate_uid(entropy_srcs=["phantoms"])
    file = FileDataset(str(path), ds, b"\0" * 128, meta, is_implicit_VR=False, is_little_endian=True)
    file.save_as(str(path))
    return path
