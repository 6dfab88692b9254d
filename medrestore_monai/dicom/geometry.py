"""Where the slices of a stack lie, and whether they make a regular volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from medrestore_monai.dicom.checks import XRAY, DicomError, floats

_LARGEST_PIXEL = 100.0  # mm
_SIDEWAYS = 0.01  # of the distance of two slices (0.6 degrees), but not less than 0.05 mm
_UNEVEN = 0.05  # of the distance of two slices, but not less than 0.02 mm
_LONG_RUN = 3  # so many equal distances in a row are a change of spacing, fewer are holes
_ONE_BY_ONE = "slices are restored one by one and keep their places"


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a stack are.

    Attributes:
        order: indices that sort the slices along the normal.
        affine: voxel index ``(column, row, slice)`` to mm, RAS, shape ``(4, 4)``.
        spacing: of columns, rows and slices in mm.
        regular: slices follow each other by one step; else the third column of the affine is a slice's thickness.
        notes: what a user should know of the places.
    """

    order: list[int]
    affine: np.ndarray
    spacing: tuple[float, float, float]
    regular: bool
    notes: tuple[str, ...] = ()


def stack_grid(
    datasets: Sequence[Dataset], labels: Sequence[str], allow_gaps: bool = False, independent: bool = False
) -> Grid:
    """Sort slices along their normal and find out whether they make a regular volume.

    The affine is that of MONAI's PydicomReader and of NIfTI converters: the third column leads from the first slice
    to the last one, with the shear of a tilted gantry. Slices at uneven distances get the normal, as long as the slice
    is thick, instead.

    Args:
        datasets: headers of one stack.
        labels: names of the files in the message.
        allow_gaps: take missing slices; everything else is checked all the same.
        independent: the slices are no stack, so keep their order.

    Raises:
        DicomError: no geometry, or a slice is missing.
    """
    pixel, row, column, positions = _geometry(datasets, labels)
    normal = unit_normal(row, column)
    along = positions @ normal
    order = list(range(len(datasets))) if independent else [int(i) for i in np.argsort(along, kind="stable")]
    along, positions, names = along[order], positions[order], [labels[i] for i in order]
    gaps = np.diff(along)
    if not allow_gaps and not independent:
        _refuse_holes(gaps, names)
    shifts = np.diff(positions, axis=0) - gaps[:, None] * normal
    even = not independent and _is_even(gaps, shifts)
    if len(along) > 1 and even:
        step = (positions[-1] - positions[0]) / (len(along) - 1)
    else:
        step = normal * _thickness(datasets[0])
    affine = np.eye(4)
    affine[:3] = np.column_stack([row * pixel[1], column * pixel[0], step, positions[0]])
    affine[:2] *= -1  # LPS to RAS
    spacing = (float(pixel[1]), float(pixel[0]), float(np.linalg.norm(step)))
    notes = () if independent else tuple(_notes(gaps, shifts, even))
    return Grid(order, affine, spacing, even, notes)


def unit_normal(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Unit vector perpendicular to a slice."""
    normal = np.cross(row, column)
    return normal / np.linalg.norm(normal)


def _geometry(
    datasets: Sequence[Dataset], labels: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixel spacing ``(2,)``, row and column direction ``(3,)`` and positions ``(N, 3)``, all finite."""
    if datasets[0].Modality in XRAY:
        return _of_xray(datasets)
    for ds, label in zip(datasets, labels, strict=True):
        check_geometry(ds, label, alone=len(datasets) == 1)
    first, label = datasets[0], labels[0]
    pixel = floats(first.PixelSpacing)
    if (pixel <= 0).any() or (pixel > _LARGEST_PIXEL).any():
        raise DicomError(
            f"{label} has pixel spacing {pixel.tolist()}, where positive mm, up to {_LARGEST_PIXEL:g}, are expected; "
            "export it again."
        )
    cosines = floats(first.get("ImageOrientationPatient") or (1, 0, 0, 0, 1, 0))
    row, column = cosines[:3], cosines[3:]
    if abs(row @ row - 1) > 0.01 or abs(column @ column - 1) > 0.01 or abs(row @ column) > 0.01:
        raise DicomError(
            f"{label} has an ImageOrientationPatient of directions that are not perpendicular and of length 1; "
            "export it again."
        )
    positions = np.stack([floats(ds.get("ImagePositionPatient") or (0, 0, 0)) for ds in datasets])
    return pixel, row, column, positions


def _of_xray(datasets: Sequence[Dataset]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixel spacing of X-ray images, 1 if it is unknown, at no place in the patient."""
    first = datasets[0]
    pixel = floats(first.get("PixelSpacing") or first.get("ImagerPixelSpacing") or (1, 1))
    pixel = pixel if len(pixel) == 2 and np.isfinite(pixel).all() and (pixel > 0).all() else np.ones(2)
    return pixel, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), np.zeros((len(datasets), 3))


def check_geometry(ds: Dataset, label: str, alone: bool = False) -> None:
    """Refuse a slice that does not say where it lies; one that is ``alone`` needs no place in the patient.

    Raises:
        DicomError: pixel spacing, orientation or position are missing or no numbers.
    """
    for keyword, length in (("PixelSpacing", 2), ("ImageOrientationPatient", 6), ("ImagePositionPatient", 3)):
        value = ds.get(keyword)
        if value is None and alone and keyword != "PixelSpacing":
            continue
        if value is None or isinstance(value, str) or len(value) != length or not np.isfinite(floats(value)).all():
            raise DicomError(
                f"{label} has no valid {keyword}, so its place in the volume is unknown: export the series again."
            )


def _thickness(ds: Dataset) -> float:
    """Thickness of a slice in mm; 1 where the header does not know it."""
    thickness = float(ds.get("SliceThickness") or 0)
    return thickness if np.isfinite(thickness) and thickness > 0 else 1.0


def _is_even(gaps: np.ndarray, shifts: np.ndarray) -> bool:
    """Return whether all steps from slice to slice are the same."""
    if len(gaps) < 2:
        return True
    if np.ptp(gaps) > max(_UNEVEN * gaps.min(), 0.02):
        return False
    apart = np.linalg.norm(shifts - shifts.mean(axis=0), axis=1)
    return bool((apart <= np.maximum(_UNEVEN * gaps, 0.05)).all())


def _notes(gaps: np.ndarray, shifts: np.ndarray, even: bool) -> list[str]:
    notes = []
    sideways = np.linalg.norm(shifts, axis=1)
    if (sideways > np.maximum(_SIDEWAYS * gaps, 0.05)).any():
        degrees = np.degrees(np.arctan2(sideways, gaps))
        notes.append(
            f"The slices are tilted by {np.median(degrees):.1f} degrees (as by a tilted gantry): {_ONE_BY_ONE}."
        )
    if not even and np.ptp(gaps) > max(_UNEVEN * gaps.min(), 0.02):
        notes.append(f"The slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart: {_ONE_BY_ONE}.")
    elif not even and not notes:
        notes.append(f"The slices are shifted within their planes: {_ONE_BY_ONE}.")
    return notes


def _refuse_holes(gaps: np.ndarray, names: Sequence[str]) -> None:
    """Refuse a wide gap among equal ones: the transfer of the series may have lost slices.

    A gap counts that is a multiple of a gap beside it, unless several in a row are equal.

    Raises:
        DicomError: slices are missing.
    """
    missing, median = np.zeros(len(gaps), dtype=int), float(np.median(gaps)) if len(gaps) else 0.0
    for index, gap in enumerate(gaps):
        beside = [gaps[other] for other in (index - 1, index + 1) if 0 <= other < len(gaps)]
        rule = min(beside, default=gap)
        if rule < median / 2:  # one narrow gap
            rule = max(beside)
        more = round(gap / rule) - 1 if rule > 0 else 0
        if more > 0 and abs(gap / rule - 1 - more) <= _UNEVEN and _run_length(gaps, index) < _LONG_RUN:
            missing[index] = more
    if missing.any():
        worst = int(np.argmax(missing))
        wide = gaps[worst]
        raise DicomError(
            f"{missing[worst]} slice(s) missing between {names[worst]} and {names[worst + 1]}, which are {wide:.2f} mm "
            f"apart where {wide / (missing[worst] + 1):.2f} mm is the rule ({missing.sum()} missing in all): copy the "
            "series again, or take it as it is with `allow_gaps`."
        )


def _run_length(gaps: np.ndarray, index: int) -> int:
    """Number of equal distances in a row that one of them is in."""
    alike = np.abs(gaps - gaps[index]) <= max(_UNEVEN * gaps[index], 0.02)
    first, last = index, index
    while first > 0 and alike[first - 1]:
        first -= 1
    while last + 1 < len(gaps) and alike[last + 1]:
        last += 1
    return last - first + 1
