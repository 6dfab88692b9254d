"""Volumes whose slices lie in several folders: the part in each would be restored with wrong neighbors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from medrestore_monai.dicom.checks import ENHANCED_CLASSES, XRAY, DicomError, floats, reading
from medrestore_monai.dicom.enhanced import flatten
from medrestore_monai.dicom.files import SeriesInfo, SourceFile, find_series, read_file
from medrestore_monai.dicom.geometry import check_geometry, unit_normal

__all__ = ["divided_series"]

_PLACE = tuple[tuple[Any, ...], float]  # the grid of a slice, and where along its normal it lies, in mm
_OF_GRID = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "Rows", "Columns")
_FAR = 3.5  # distances of slices


def divided_series(found: Iterable[tuple[Path, str]]) -> dict[tuple[Path, str], str]:
    """Find the series of which several folders hold parts of one volume.

    Copies of a series are no parts, nor is a folder that holds nothing but slices of another. Stacks, such as echoes
    and time points, may lie in folders of their own: each is whole there, and most of their slices lie at the same
    places. So may slabs that lie apart: no slice of one is a neighbor of a slice of the other.

    Args:
        found: folders, and the UIDs of series in them. Only series that are in several folders are looked at.

    Returns:
        For each folder and UID of such a part: a sentence that names two of the folders, and says what to do.
    """
    folders: dict[str, list[Path]] = defaultdict(list)
    for folder, uid in found:
        folders[uid].append(folder)
    several = {uid: places for uid, places in folders.items() if len(places) > 1}
    infos = {folder: _series_of(folder) for folder in {one for places in several.values() for one in places}}
    problems: dict[tuple[Path, str], str] = {}
    for uid, places in several.items():
        slices: dict[Path, dict[str, set[_PLACE]]] = {}
        copies: dict[frozenset[str], list[Path]] = defaultdict(list)
        for folder in sorted(places):
            own = _slices(infos[folder].get(uid))
            copies[frozenset(own)].append(folder)
            if len(copies[frozenset(own)]) == 1:
                slices[folder] = own
        for first, second in combinations(slices, 2):
            if {(first, uid), (second, uid)} - problems.keys() and _are_parts(slices[first], slices[second]):
                for folder, other in ((first, second), (second, first)):
                    for copy in copies[frozenset(slices[folder])]:
                        two = " and ".join(map(str, sorted((copy, other))))
                        problems.setdefault((copy, uid), f"parts of one series lie in {two}: put them into one folder.")
    return problems


def _series_of(folder: Path) -> dict[str, SeriesInfo]:
    try:
        return {one.uid: one for one in find_series(folder, [])}
    except (DicomError, OSError):  # reported where it is listed
        return {}


def _slices(info: SeriesInfo | None) -> dict[str, set[_PLACE]]:
    """Where the slices of a series lie, by SOPInstanceUID; nothing of what is restored slice by slice in any case."""
    if info is None or info.localizer or info.modality in XRAY:
        return {}
    return dict(_places(file) for file in info.files)


def _places(file: SourceFile) -> tuple[str, set[_PLACE]]:
    try:
        with reading(file.label):
            ds = read_file(file, stop_before_pixels=True)
            uid = str(ds.get("SOPInstanceUID"))
            frames = flatten(ds, file.label) if ds.get("SOPClassUID") in ENHANCED_CLASSES else [ds]
            return uid, {_place(frame, file.label) for frame in frames}
    except DicomError:  # reported when the series is read
        return file.label, set()


def _place(ds: Dataset, label: str) -> _PLACE:
    check_geometry(ds, label)
    cosines = floats(ds.ImageOrientationPatient)
    along = float(floats(ds.ImagePositionPatient) @ unit_normal(cosines[:3], cosines[3:]))
    grid = (*(str(ds.get(keyword)) for keyword in _OF_GRID), *cosines.round(3).tolist())
    return grid, round(along, 2)


def _are_parts(first: dict[str, set[_PLACE]], second: dict[str, set[_PLACE]]) -> bool:
    """Say whether slices that are in one folder only lie among or next to each other, most of them at other places."""
    own = [_by_grid(one, other) for one, other in ((first, second), (second, first))]
    return any(
        2 * len(own[0][grid] & own[1][grid]) <= min(len(own[0][grid]), len(own[1][grid]))
        and (len(first) == len(second) == 1 or _are_near(_by_grid(first, {})[grid], _by_grid(second, {})[grid]))
        for grid in own[0].keys() & own[1].keys()
    )


def _are_near(first: set[float], second: set[float]) -> bool:
    """Say whether two groups of places overlap, or are apart by no more than a lost slice or two."""
    steps = [step for one in (first, second) for step in np.diff(sorted(one))]
    if not steps:
        return False  # one place each, whose distance says nothing
    return max(min(first), min(second)) - min(max(first), max(second)) <= _FAR * float(np.median(steps))


def _by_grid(one: dict[str, set[_PLACE]], other: dict[str, set[_PLACE]]) -> dict[tuple[Any, ...], set[float]]:
    found: dict[tuple[Any, ...], set[float]] = defaultdict(set)
    for grid, along in (place for uid in one.keys() - other.keys() for place in one[uid]):
        found[grid].add(along)
    return found
