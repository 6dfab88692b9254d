"""Where the slices of a series lie, and whether they make a regular volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from medrestore_monai.dicom.checks import DicomError, floats

_DUPLICATE_MM = 0.01
_LARGEST_PIXEL = 100.0  # mm
_SIDEWAYS = 0.01  # of the distance of two slices (0.6 degrees), but not less than 0.05 mm
_UNEVEN = 0.05  # of the distance of two slices, but not less than 0.02 mm
_REMEDY = "they can only be restored as independent images (`allow_gaps`)."


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a series are.

    Attributes:
        order: indices that sort the slices along the normal.
        affine: voxel index ``(column, row, slice)`` to mm, RAS, shape ``(4, 4)``.
        spacing: of columns, rows and slices in mm.
        regular: slices follow each other at one distance; else they must be treated as independent images.
    """

    order: list[int]
    affine: np.ndarray
    spacing: tuple[float, float, float]
    regular: bool


def series_grid(datasets: Sequence[Dataset], labels: Sequence[str], allow_gaps: bool = False) -> Grid:
    """Sort slices along their normal and check that they make a regular volume.

    The affine is that of MONAI's PydicomReader and of NIfTI converters: the third column leads from the first slice
    to the last one. A lone slice, and slices with gaps, get the normal, as long as the slice is thick, instead.

    Args:
        datasets: headers of one series, alike as :func:`check_alike` asks.
        labels: names of the files in the message.
        allow_gaps: take missing slices and uneven spacing; everything else is checked all the same.

    Raises:
        DicomError: no geometry, duplicate position, gantry tilt, missing slice, uneven spacing.
    """
    pixel, row, column, positions = _geometry(datasets, labels)
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    along = positions @ normal
    order = [int(i) for i in np.argsort(along, kind="stable")]
    along, positions, names = along[order], positions[order], [labels[i] for i in order]
    gaps = np.diff(along)
    _check_sideways(positions, normal, gaps, names)
    problem = _gap_problem(gaps, names)
    if problem and not allow_gaps:
        raise DicomError(problem)
    regular = not problem
    if len(along) > 1 and regular:
        step = (positions[-1] - positions[0]) / (len(along) - 1)
    else:
        step = normal * _thickness(datasets[0])
    affine = np.eye(4)
    affine[:3] = np.column_stack([row * pixel[1], column * pixel[0], step, positions[0]])
    affine[:2] *= -1  # LPS to RAS
    return Grid(order, affine, (float(pixel[1]), float(pixel[0]), float(np.linalg.norm(step))), regular)


def _geometry(
    datasets: Sequence[Dataset], labels: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixel spacing ``(2,)``, row and column direction ``(3,)`` and positions ``(N, 3)``, all finite."""
    for ds, label in zip(datasets, labels, strict=True):
        for keyword, length in (("PixelSpacing", 2), ("ImageOrientationPatient", 6), ("ImagePositionPatient", 3)):
            value = ds.get(keyword)
            if value is None and len(datasets) == 1 and keyword != "PixelSpacing":
                continue  # a lone slice needs no place in the patient
            if value is None or isinstance(value, str) or len(value) != length or not np.isfinite(floats(value)).all():
                raise DicomError(f"{label} has no valid {keyword}, so its place in the volume is unknown.")
    first, label = datasets[0], labels[0]
    pixel = floats(first.PixelSpacing)
    if (pixel <= 0).any() or (pixel > _LARGEST_PIXEL).any():
        raise DicomError(
            f"{label} has pixel spacing {pixel.tolist()}, where positive mm, up to {_LARGEST_PIXEL:g}, are expected."
        )
    cosines = floats(first.get("ImageOrientationPatient") or (1, 0, 0, 0, 1, 0))
    row, column = cosines[:3], cosines[3:]
    if abs(row @ row - 1) > 0.01 or abs(column @ column - 1) > 0.01 or abs(row @ column) > 0.01:
        raise DicomError(
            f"{label} has an ImageOrientationPatient of directions that are not perpendicular and of length 1."
        )
    positions = np.stack([floats(ds.get("ImagePositionPatient") or (0, 0, 0)) for ds in datasets])
    return pixel, row, column, positions


def _thickness(ds: Dataset) -> float:
    """Thickness of a slice in mm; 1 where the header does not know it."""
    thickness = float(ds.get("SliceThickness") or 0)
    return thickness if np.isfinite(thickness) and thickness > 0 else 1.0


def _check_sideways(positions: np.ndarray, normal: np.ndarray, gaps: np.ndarray, names: Sequence[str]) -> None:
    """Refuse two slices in one place and slices that are shifted within their plane."""
    steps = np.diff(positions, axis=0)
    shifts = np.linalg.norm(steps - gaps[:, None] * normal, axis=1)
    for i, (gap, shift) in enumerate(zip(gaps, shifts, strict=True)):
        if gap < _DUPLICATE_MM:
            raise DicomError(
                f"{names[i]} and {names[i + 1]} lie at the same position: "
                "the series holds a slice twice, or several phases or echoes."
            )
        if shift > max(_SIDEWAYS * gap, 0.05):
            degrees = np.degrees(np.arctan2(shift, gap))
            raise DicomError(
                f"{names[i + 1]} is shifted by {shift:.2f} mm within its plane against {names[i]} "
                f"(as by a gantry tilt of {degrees:.1f} degrees), so the slices make no regular volume."
            )


def _gap_problem(gaps: np.ndarray, names: Sequence[str]) -> str:
    """Say where slices are missing or uneven; empty if they are neither."""
    if len(gaps) < 2 or np.ptp(gaps) <= max(_UNEVEN * gaps.min(), 0.02):
        return ""
    rule = float(gaps.min())
    worst = int(np.argmax(gaps))
    between = f"between {names[worst]} and {names[worst + 1]}"
    missing = np.rint(gaps / rule) - 1
    # a few wide gaps among equal ones; one narrow gap among wide ones is not "many missing"
    if (np.abs(gaps / rule - 1 - missing) <= _UNEVEN).all() and missing.sum() <= len(gaps):
        return (
            f"{int(missing[worst])} slice(s) missing {between}, which are {gaps[worst]:.2f} mm apart "
            f"where {rule:.2f} mm is the rule ({int(missing.sum())} missing in all); {_REMEDY}"
        )
    return f"Slices are unevenly spaced, from {rule:.2f} mm to {gaps[worst]:.2f} mm ({between}); {_REMEDY}"
