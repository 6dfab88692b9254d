"""All that is wrong with a data set, in one error before the first iteration."""

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medrestore_monai.data.find import Item, is_image_file
from medrestore_monai.dicom import choose_stack, read_stacks
from medrestore_monai.images import read_header, read_image

SHOWN = 20  # problems listed in an error, the others are counted
_TOLERANCE = 0.01  # mm between the slices of a pair of series


class Found(NamedTuple):
    """What an image turned out to be.

    Args:
        size: columns and rows.
        slices: 1 for a picture.
        channels: 3 for RGB, else 1.
        positions: of the slices in mm, shape ``(slices, 3)``, for DICOM series.
    """

    size: tuple[int, int]
    slices: int
    channels: int
    positions: np.ndarray | None = None


class Problems(list[str]):
    """Problems of one data set, found one after the other and raised together.

    Args:
        place: what the error calls the data set.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        super().__init__()
        self.place = str(place)

    def raise_any(self) -> None:
        """Raise what was found.

        Raises:
            ValueError: there are problems; it lists the first ones and counts them all.
        """
        if self:
            listed = ";\n  ".join(text.rstrip(".") for text in self[:SHOWN])
            more = f";\n  and {len(self) - SHOWN} more" * (len(self) > SHOWN)
            count = f"{len(self)} problem{'s' * (len(self) > 1)}"
            raise ValueError(f"{self.place} cannot be used, it has {count}:\n  {listed}{more}.")


def look_at(
    path: str, series_uid: str, allow_gaps: bool, full: bool, problems: list[str], stack: int = 0
) -> Found | None:
    """Look at one image; what is wrong with it goes to ``problems``.

    Args:
        path: an image file, or a file, folder or archive of a DICOM series.
        series_uid: which series, where the path holds several; else empty.
        allow_gaps: take a series with missing slices.
        full: read every pixel, not only headers.
        problems: gets a line that names the file.
        stack: which stack, from 1, where the series has several; else 0.
    """
    try:
        if not is_image_file(Path(path)):
            return _look_at_series(path, series_uid, allow_gaps, full, stack)
        header = read_header(path)
        if full:
            read_image(path)
        return Found(header.size, header.slices, header.channels)
    except (ValueError, OSError) as error:
        text = " ".join(str(error).split())
        problems.append(text if path in text else f"{path}: {text}")
        return None


def _look_at_series(path: str, series_uid: str, allow_gaps: bool, full: bool, stack: int) -> Found:
    stacks = read_stacks(path, series_uid or None, allow_gaps=allow_gaps)
    if len(stacks) > 1 and not stack:
        names = "; ".join(str(one.name) for one in stacks)
        raise ValueError(
            f"its series has {len(stacks)} stacks ({names}), where a data set takes one volume a folder: put the files "
            "of each stack, or of the one you want, into a folder of its own."
        )
    series = choose_stack(stacks, stack)
    columns, rows, slices = series.shape
    for number in range(slices if full else 0):
        series.stored(number)
    places = [ds.get("ImagePositionPatient") for ds in series.datasets]
    positions = None if None in places else np.array([[float(v) for v in place] for place in places])
    return Found((columns, rows), slices, 1, positions)


def compare(degraded: Found, clean: Found) -> str:
    """Say in what the two images of a pair differ that must be equal, as the end of a sentence; empty if in nothing."""
    if degraded.size != clean.size:
        sizes = [f"{found.size[0]}x{found.size[1]}" for found in (degraded, clean)]
        return f"has {sizes[0]} pixels (columns x rows), where its partner has {sizes[1]}"
    if degraded.slices != clean.slices:
        return f"has {degraded.slices} slices, where its partner has {clean.slices}"
    if degraded.channels != clean.channels:
        return f"has {degraded.channels} channels, where its partner has {clean.channels}"
    if degraded.positions is not None and clean.positions is not None:
        apart = np.abs(degraded.positions - clean.positions).max(axis=1)
        if apart.max() > _TOLERANCE:
            return f"lies elsewhere than its partner: slice {int(apart.argmax())} by {apart.max():.2f} mm"
    return ""


def check_items(
    items: Iterable[Mapping[str, Any]],
    keys: Sequence[str] = ("image", "label"),
    channels: int | None = None,
    full: bool = False,
    allow_gaps: bool = False,
    place: str = "The data set",
) -> None:
    """Check an item list of any origin: files that are missing or unreadable, pairs of unequal size, wrong channels.

    Args:
        items: with paths under ``keys``; an item may lack a key, name a ``slice``, a ``series_uid`` and a ``stack``.
        keys: names of the images; of several, all must have the size of the last one.
        channels: how many every image must have; ``None`` for any.
        full: read every pixel, not only headers.
        allow_gaps: take DICOM series with missing slices.
        place: what the error calls the data set.

    Raises:
        ValueError: there are problems; it lists the first 20 and counts them all.
    """
    problems = Problems(place)
    look = functools.lru_cache(maxsize=None)(
        lambda path, uid, stack: look_at(path, uid, allow_gaps, full, problems, stack)
    )
    seen = set()
    for item in items:
        paths = tuple(str(item[key]) for key in keys if key in item)
        uid, stack, number = item.get("series_uid", ""), int(item.get("stack") or 0), int(item.get("slice") or 0)
        if not paths:
            problems.append(f"{item.get('name', 'an item')} has none of the keys {', '.join(keys)}")
        found = [look(path, uid, stack) for path in paths]
        for path, one in zip(paths, found, strict=True):
            if one is not None and number >= one.slices:
                problems.append(f"{path} has {one.slices} slices, but slice {number} is listed")
        if (paths, uid, stack) not in seen:
            seen.add((paths, uid, stack))
            problems += _unfit(paths, found, channels)
    problems.raise_any()


def _unfit(paths: Sequence[str], found: Sequence[Found | None], channels: int | None) -> list[str]:
    """Return which of the images of one item have the wrong channels, or differ from the last one."""
    texts = [
        f"{path} has {one.channels} channels, where {channels} are expected"
        for path, one in zip(paths, found, strict=True)
        if one is not None and channels not in (None, one.channels)
    ]
    for path, one in zip(paths[:-1], found[:-1], strict=True):
        if one is not None and found[-1] is not None and (difference := compare(one, found[-1])):
            texts.append(f"{path} {difference}")
    return texts


def check_and_slice(
    entries: Sequence[Item],
    keys: Sequence[str],
    problems: Problems,
    channels: int | None = None,
    full: bool = False,
    allow_gaps: bool = False,
    central: int = 0,
) -> list[Item]:
    """Look at every image or pair, raise all that is wrong, and list the slices.

    Args:
        entries: items without ``slice``; pairs have the degraded image first in ``keys``.
        keys: names of the images in the items.
        problems: what is known to be wrong already.
        channels: how many every image must have; ``None`` for any.
        full: read every pixel, not only headers.
        allow_gaps: take DICOM series with missing slices.
        central: list this many slices in the middle of each volume; 0 for all.

    Returns:
        One item a slice.

    Raises:
        ValueError: there are problems.
    """
    items: list[Item] = []
    for entry in entries:
        paths = [str(entry[key]) for key in keys]
        found = [look_at(path, entry["series_uid"], allow_gaps, full, problems) for path in paths]
        problems += _unfit(paths, found, channels)
        if found[-1] is not None:
            slices = found[-1].slices
            left_out = max(0, slices - central) // 2 if central else 0
            chosen = range(left_out, min(slices, left_out + central) if central else slices)
            items += [{**entry, "slice": number} for number in chosen]
    problems.raise_any()
    return items
