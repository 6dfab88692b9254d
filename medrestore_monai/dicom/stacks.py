"""From the frames of a series to stacks: one contrast, one time, one frame at each place.

Only where places are taken twice do attributes split a series into stacks; what else varies within a volume
(acquisition numbers, exposure, trigger times) splits nothing.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from medrestore_monai.dicom.attributes import ATTRIBUTES, Attribute, number
from medrestore_monai.dicom.checks import XRAY, DicomError, floats
from medrestore_monai.dicom.files import SourceFile
from medrestore_monai.dicom.geometry import check_geometry, unit_normal

_LEAST_PLACE = 0.01  # mm
_OF_STEP = 0.02  # of the median distance of slices
_COMBINED = 3  # attributes that together may split a series
_PAUSE = 2.0  # of the longest time between slices of one volume
_FEW = 3  # a single image beside so many others is no stack of its own


class Frame(NamedTuple):
    """One frame of a file, and its header as that of a single slice."""

    file: SourceFile
    header: Dataset


@dataclass(frozen=True)
class StackName:
    """What distinguishes one stack of a series from the others.

    Attributes:
        number: from 1.
        count: of all stacks of the series.
        word: what they differ in.
        value: of that, with its unit; empty for what is a text in the header.
    """

    number: int = 1
    count: int = 1
    word: str = "part"
    value: str = ""

    def __str__(self) -> str:
        return f"{self.word} {self.number} of {self.count}" + (f", {self.value}" if self.value else "")

    @property
    def folder(self) -> str:
        """Name of a folder for it."""
        digits = max(2, len(str(self.count)))
        return f"stack{self.number:0{digits}d}_" + re.sub(r"[^a-z0-9]+", "_", self.word)


@dataclass(frozen=True)
class Stack:
    """Frames that make one volume, or a set of independent images."""

    frames: list[Frame]
    name: StackName
    independent: bool = False


class _Part(NamedTuple):
    frames: list[Frame]
    word: str
    value: str
    independent: bool = False


def split_stacks(
    frames: Sequence[Frame], is_copy: Callable[[Frame, Frame], bool]
) -> tuple[list[Stack], list[tuple[Frame, str]]]:
    """Split the frames of one series into stacks.

    Args:
        frames: all of them, but for localizers, phase images and the like.
        is_copy: returns whether two frames hold the same pixels.

    Returns:
        The stacks, and frames that are left out, each with the reason.

    Raises:
        DicomError: a frame does not say where it lies, or nothing distinguishes frames at one place.
    """
    if frames[0].header.Modality in XRAY:
        parts = [_Part(one, "set", "", True) for one in _sets(frames, _same_xray)]
        return _named(parts), []
    if len(frames) == 1:
        return [Stack(list(frames), StackName())], []
    for frame in frames:
        check_geometry(frame.header, frame.file.label)
    groups, left_out = _without_scouts(_group(frames))
    parts = []
    if len(groups) > 1 and all(len(group) == 1 for group in groups):
        parts += [_Part(one, "set", "", len(one) > 1) for one in _sets([group[0] for group in groups])]
    else:
        for group in groups:
            found, copies = _split_group(group, is_copy)
            parts += found if len(found) > 1 or len(groups) == 1 else [found[0]._replace(word="part")]
            left_out += copies
    return _named(parts), left_out


def _named(parts: Sequence[_Part]) -> list[Stack]:
    return [
        Stack(part.frames, StackName(index + 1, len(parts), part.word, part.value), part.independent)
        for index, part in enumerate(parts)
    ]


def _same_xray(first: Dataset, ds: Dataset) -> bool:
    words = ("SOPClassUID", "Rows", "Columns", "PhotometricInterpretation", "BitsAllocated", "BitsStored")
    return all(first.get(word) == ds.get(word) for word in (*words, "PixelRepresentation"))


def _cosines(ds: Dataset) -> np.ndarray:
    return floats(ds.ImageOrientationPatient)


def _group(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames that never lie in one volume: another class, grid or frame of reference; in the order of first frames."""
    groups: list[list[Frame]] = []
    for frame in frames:
        for group in groups:
            if _same_grid(group[0].header, frame.header):
                group.append(frame)
                break
        else:
            groups.append([frame])
    return groups


def _same_grid(first: Dataset, ds: Dataset, any_place: bool = False) -> bool:
    texts = ("SOPClassUID", "Rows", "Columns", "Units") + (() if any_place else ("FrameOfReferenceUID", "StackID"))
    if any(first.get(keyword) != ds.get(keyword) for keyword in texts):
        return False
    if not np.allclose(floats(first.PixelSpacing), floats(ds.PixelSpacing), rtol=1e-3, atol=0):
        return False
    return any_place or bool(np.abs(_cosines(first) - _cosines(ds)).max() <= 1e-3)


def _without_scouts(groups: list[list[Frame]]) -> tuple[list[list[Frame]], list[tuple[Frame, str]]]:
    """Leave out single images of another orientation or size beside a stack, such as an unmarked scout."""
    largest = max(groups, key=len)
    kept, left_out = [], []
    for group in groups:
        first, other = largest[0].header, group[0].header
        elsewhere = (
            not _same_grid(first, other, any_place=True) or np.abs(_cosines(first) - _cosines(other)).max() > 0.1
        )
        if len(group) == 1 and len(largest) >= _FEW and elsewhere:
            left_out.append((group[0], "a single image of another size or orientation, as a scout is"))
        else:
            kept.append(group)
    return kept, left_out


def _same_size(first: Dataset, ds: Dataset) -> bool:
    return _same_grid(first, ds, any_place=True)


def _sets(frames: Sequence[Frame], alike: Callable[[Dataset, Dataset], bool] = _same_size) -> list[list[Frame]]:
    """Images that lie each for itself, such as rotating projections, by size."""
    sets: list[list[Frame]] = []
    for frame in sorted(frames, key=lambda frame: number(frame.header.get("InstanceNumber")) or 0):
        for one in sets:
            if alike(one[0].header, frame.header):
                one.append(frame)
                break
        else:
            sets.append([frame])
    return sets


def _split_group(
    frames: list[Frame], is_copy: Callable[[Frame, Frame], bool]
) -> tuple[list[_Part], list[tuple[Frame, str]]]:
    positions = np.stack([floats(frame.header.ImagePositionPatient) for frame in frames])
    cosines = _cosines(frames[0].header)
    normal = unit_normal(cosines[:3], cosines[3:])
    places = _places(positions @ normal)
    if max(Counter(places).values()) == 1:
        return [_Part(frames, "part", "")], []
    codes = [_codes(attribute, frames) for attribute in ATTRIBUTES]
    pixel = min(floats(frames[0].header.PixelSpacing))
    in_plane = positions - np.outer(positions @ normal, normal)
    codes.insert(0, _vector_codes(in_plane, pixel / 2))
    attributes = [Attribute("position", lambda ds: None), *ATTRIBUTES]
    kept, copies = _without_copies(frames, places, codes, is_copy)
    left_out = [(frames[copy], f"a copy of {frames[first].file.label}") for copy, first in copies]
    frames, places = [frames[i] for i in kept], [places[i] for i in kept]
    most = max(Counter(places).values())
    if most == 1:
        return [_Part(frames, "part", "")], left_out
    codes = [[of_all[i] for i in kept] for of_all in codes]
    chosen = _tell_apart(codes, places, most)
    if chosen is None:
        return [_Part(part, "time point", "") for part in _by_order(frames, places, most)], left_out
    parts: dict[tuple[int, ...], list[Frame]] = defaultdict(list)
    for index, frame in enumerate(frames):
        parts[tuple(codes[one][index] for one in chosen)].append(frame)
    word = " and ".join(attributes[one].word for one in chosen)
    named = []
    for key in sorted(parts):
        values = (attributes[one].show(parts[key][0].header) for one in chosen)
        named.append(_Part(parts[key], word, ", ".join(value for value in values if value)))
    return named, left_out


def _places(along: np.ndarray) -> list[int]:
    """Number the places of frames along the normal; those that are almost at one place have one number."""
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    steps = gaps[gaps > _LEAST_PLACE]
    tolerance = max(_LEAST_PLACE, _OF_STEP * float(np.median(steps))) if len(steps) else _LEAST_PLACE
    numbers = np.zeros(len(along), dtype=int)
    numbers[order[1:]] = np.cumsum(gaps > tolerance)
    return [int(one) for one in numbers]


def _codes(attribute: Attribute, frames: Sequence[Frame]) -> list[int]:
    """Number the values of an attribute, in their order; what is missing is a value, too."""
    values = [attribute.get(frame.header) for frame in frames]
    found = [value for value in values if value is not None]
    if all(isinstance(value, float) for value in found):
        edges = sorted(set(found))
        starts = np.concatenate([[bool(edges)][: len(edges)], np.diff(edges) > attribute.tolerance])
        known: dict[Any, int] = {edge: int(one) for edge, one in zip(edges, np.cumsum(starts), strict=True)}
    else:
        known = {value: place + 1 for place, value in enumerate(sorted(set(found), key=_sortable))}
    return [0 if value is None else known[value] for value in values]


def _sortable(value: Any) -> tuple[str, Any]:
    return type(value).__name__, value


def _vector_codes(vectors: np.ndarray, tolerance: float) -> list[int]:
    """Number vectors, shape ``(N, 3)``, that are further apart than a tolerance."""
    firsts: list[np.ndarray] = []
    codes = []
    for vector in vectors:
        near = (place for place, first in enumerate(firsts) if np.linalg.norm(vector - first) <= tolerance)
        place = next(near, len(firsts))
        if place == len(firsts):
            firsts.append(vector)
        if len(firsts) > len(vectors) // 2:
            return [0] * len(vectors)  # every slice is shifted, as by a tilt
        codes.append(place)
    return codes


def _without_copies(
    frames: Sequence[Frame],
    places: Sequence[int],
    codes: Sequence[Sequence[int]],
    is_copy: Callable[[Frame, Frame], bool],
) -> tuple[list[int], list[tuple[int, int]]]:
    """Indices of frames without copies of earlier ones; and the copies with the frame that they repeat."""
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    kept, copies = [], []
    for index, frame in enumerate(frames):
        known = alike[tuple([places[index]] + [of_all[index] for of_all in codes])]
        first = next((other for other in known if is_copy(frames[other], frame)), None)
        if first is None:
            known.append(index)
            kept.append(index)
        else:
            copies.append((index, first))
    return kept, copies


def _tell_apart(codes: Sequence[Sequence[int]], places: Sequence[int], most: int) -> tuple[int, ...] | None:
    """The first attribute, pair or triple that makes as many parts as frames lie at one place, none of them doubled."""
    useful = [index for index, of_all in enumerate(codes) if 1 < len(set(of_all)) <= most]
    for size in range(1, _COMBINED + 1):
        for chosen in itertools.combinations(useful, size):
            keys = list(zip(*(codes[one] for one in chosen), strict=True))
            if len(set(keys)) == most and len(set(zip(keys, places, strict=True))) == len(places):
                return chosen
    return None


def _by_order(frames: Sequence[Frame], places: Sequence[int], most: int) -> list[list[Frame]]:
    """The k-th frame at each place goes to stack k, by time of acquisition, of content, or instance number.

    Where a place has one frame less than others, the last stack lacks it only if order and places leave no other
    way to read them.

    Raises:
        DicomError: none of them differs everywhere, more than the last stack would have holes, or nothing says which.
    """
    at_place: dict[int, list[Frame]] = defaultdict(list)
    for frame, place in sorted(zip(frames, places, strict=True), key=lambda pair: pair[1]):
        at_place[place].append(frame)
    fewest = min(at_place.values(), key=len)
    unclear = False
    for keywords in (("AcquisitionDate", "AcquisitionTime"), ("ContentDate", "ContentTime"), ("InstanceNumber",)):
        moments = [sorted(_moment(frame.header, keywords) or () for frame in found) for found in at_place.values()]
        distinct = all(() not in found and len(set(found)) == len(found) for found in moments)
        if not distinct or len(fewest) < max(most - 1, 2 if most > 2 else most):
            continue
        if len(fewest) < most and not _only_last_is_short(moments, most):
            unclear = True
            continue
        ordered = [sorted(found, key=lambda f: _moment(f.header, keywords) or ()) for found in at_place.values()]
        return [[found[k] for found in ordered if k < len(found)] for k in range(most)]
    if unclear:
        raise DicomError(
            f"{len(fewest)} files lie at the position of {fewest[0].file.label} and {most} at others, and their times "
            "do not say which time point lacks a slice there: export the series again, or leave that position out."
        )
    first, second = next(found for found in at_place.values() if len(found) > 1)[:2]
    raise DicomError(
        f"{first.file.label} and {second.file.label} lie at the same position, and nothing in their headers "
        "distinguishes them: put what belongs together into folders of its own."
    )


def _only_last_is_short(moments: Sequence[Sequence[tuple[float, ...]]], most: int) -> bool:
    """Return whether the k-th moments of places are certainly of one stack, although some places have one less.

    The stacks follow each other, and all have one moment each, or go through the places in one direction, or have a
    pause before them that is longer than any within. If a frame of another stack than the last were lost, a later one
    in its place would break that.
    """
    stacks = [[found[k] for found in moments if k < len(found)] for k in range(most)]
    if any(max(one) >= min(following) for one, following in itertools.pairwise(stacks)):
        return False
    upwards = all(one == sorted(set(one)) for one in stacks)
    downwards = all(one == sorted(set(one), reverse=True) for one in stacks)
    return upwards or downwards or all(len(set(one)) == 1 for one in stacks) or _have_pauses(stacks)


def _have_pauses(stacks: Sequence[Sequence[tuple[float, ...]]]) -> bool:
    """Return whether more time passes between stacks than within any; numbers of instances say nothing of time."""
    if len(stacks[0][0]) < 2:
        return False
    seconds = [sorted(map(_seconds, one)) for one in stacks]
    within = max(after - before for one in seconds for before, after in itertools.pairwise(one))
    return min(following[0] - one[-1] for one, following in itertools.pairwise(seconds)) > _PAUSE * within


def _seconds(moment: tuple[float, ...]) -> float:
    """Seconds of a date YYYYMMDD and a time HHMMSS.f; a date that is missing is 0."""
    date, time = moment[-2:]
    days = datetime.strptime(f"{date:08.0f}", "%Y%m%d").toordinal() if date else 0
    return 86400.0 * days + 3600 * (time // 10000) + 60 * (time // 100 % 100) + time % 100


def _moment(ds: Dataset, keywords: Iterable[str]) -> tuple[float, ...] | None:
    values = [number(str(ds.get(keyword) or "").replace(".", "", keyword.endswith("Date"))) for keyword in keywords]
    return None if None in values[-1:] else tuple(value or 0.0 for value in values)
