"""Divide images of one site for an adaptation: to train, to tune, and to judge once; no person is in two parts.

Few people give few figures. Of up to six, blocks of slices are judged; of one or two people, blocks are divided, with a
gap between the parts. Results say so.
"""

from __future__ import annotations

import math
import os
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from medrestore_monai.data.clean import training_slices
from medrestore_monai.data.find import Item, is_image_file
from medrestore_monai.data.loading import LoadImageOrSeriesd
from medrestore_monai.data.pairs import paired_folders
from medrestore_monai.dicom import read_series
from medrestore_monai.transforms.degradation import slice_distance

__all__ = ["ADAPTATION_PARTS", "Division", "adaptation_part", "divide"]

ADAPTATION_PARTS = ("train", "tune", "verdict")
TARGETS = ("clean", "pairs", "none")
LEAST_UNITS = 5  # that are judged
_MANY = LEAST_UNITS + 2  # people, from which on people alone are judged
_BLOCK = 20.0  # mm from one block to the next
_GAP = 10.0  # mm between the parts of one volume
_SHARES = {"train": 0.45, "tune": 0.15, "verdict": 0.4}  # of the slices of a person who is divided
_THICK = 6  # slices, from which on a volume is divided


@dataclass(frozen=True)
class Division:
    """Who trains, tunes and is judged.

    Attributes:
        parts: the slabs of each part; ``unit`` numbers those that are judged together.
        people: how many there are.
        by: what is judged, ``people``, ``blocks of slices of people who did not train`` or ``blocks of slices``.
    """

    parts: Mapping[str, list[Item]]
    people: int
    by: str
    key: str = field(default="label", repr=False)

    def slices(self, part: str) -> int:
        """Return how many slices a part has."""
        return sum(slab["stop"] - slab["start"] for slab in self.parts[part])

    @property
    def units(self) -> int:
        """How many units are judged."""
        return len({slab["unit"] for slab in self.parts["verdict"]})


def divide(
    folder: str | os.PathLike[str],
    targets: str = "clean",
    seed: int = 0,
    channels: int | None = 1,
    allow_gaps: bool = False,
) -> Division:
    """List the images of a folder and divide them.

    A person is a PatientID of DICOM, else the first folder below ``folder``, else each file.

    Args:
        folder: images as for :func:`~medrestore_monai.data.training_slices`; pairs as for
            :func:`~medrestore_monai.data.paired_folders`.
        targets: ``clean``, ``pairs`` or ``none``.
        seed: of the draw of people.
        channels: how many every image must have; ``None`` for any.
        allow_gaps: take DICOM series with missing slices.

    Returns:
        The slabs, ``{key: path, "start": ..., "stop": ..., "person": number, "unit": number, ...}``.

    Raises:
        ValueError: no image, unfit ones, or there is no such kind of targets.
    """
    if targets not in TARGETS:
        raise ValueError(f"targets must be one of {', '.join(TARGETS)}, got {targets!r}.")
    key = "image" if targets == "none" else "label"
    if targets == "pairs":
        items = paired_folders(folder, channels=channels, allow_gaps=allow_gaps)
    else:
        items = training_slices(folder, "all", key=key, channels=channels, allow_gaps=allow_gaps)
    volumes = _volumes(items, key)
    people: dict[str, list[Item]] = defaultdict(list)
    for volume in volumes:
        people[_person(volume, key)].append(volume)
    names = sorted(people)
    for number, name in enumerate(names):
        for volume in people[name]:
            volume["person"] = number
    drawn = random.Random(seed).sample(names, len(names))
    chosen, by = _choose([people[name] for name in drawn], partial(_distance, key=key))
    return Division(chosen, len(names), by, key)


def adaptation_part(
    folder: str | os.PathLike[str],
    part: str,
    targets: str = "clean",
    seed: int = 0,
    most: int = 0,
    channels: int | None = 1,
    allow_gaps: bool = False,
    single: bool = False,
    thick: int = 0,
) -> list[Item]:
    """List one part of :func:`divide`, for a bundle's ``adapt.json``.

    Args:
        folder: see :func:`divide`.
        part: one of :data:`ADAPTATION_PARTS`.
        targets: see :func:`divide`.
        seed: see :func:`divide`.
        most: slices, of which slabs are shortened evenly; 0 for no bound.
        channels: see :func:`divide`.
        allow_gaps: see :func:`divide`.
        single: list single slices, ``slice`` instead of ``start`` and ``stop``.
        thick: see :func:`shortened`.

    Returns:
        Slabs, as of :func:`divide`.

    Raises:
        ValueError: see :func:`divide`; or there is no such part.
    """
    if part not in ADAPTATION_PARTS:
        raise ValueError(f"part must be one of {', '.join(ADAPTATION_PARTS)}, got {part!r}.")
    slabs = shortened(divide(folder, targets, seed, channels, allow_gaps).parts[part], most, thick)
    return [item for slab in slabs for item in single_slices(slab)] if single else slabs


def single_slices(slab: Item) -> list[Item]:
    """Return the slices of a slab, ``slice`` instead of ``start`` and ``stop``."""
    rest = {name: value for name, value in slab.items() if name not in ("start", "stop")}
    return [{**rest, "slice": number} for number in range(slab["start"], slab["stop"])]


def shortened(slabs: Sequence[Item], most: int, thick: int = 0) -> list[Item]:
    """Return slabs of at most ``most`` slices together: the middle of each, and some of the slabs if they are more.

    Args:
        slabs: all of them.
        most: slices; 0 for no bound.
        thick: slices that each should keep, if need be by taking fewer slabs: noise is measured in several slices.
    """
    total = sum(slab["stop"] - slab["start"] for slab in slabs)
    if not most or total <= most:
        return [dict(slab) for slab in slabs]
    count = max(1, most // max(1, thick))
    if len(slabs) > count:
        slabs = [slabs[number * len(slabs) // count] for number in range(count)]
    left, out = most, []
    for number, slab in enumerate(sorted(slabs, key=lambda one: one["stop"] - one["start"])):
        kept = min(slab["stop"] - slab["start"], left // (len(slabs) - number))
        start = (slab["start"] + slab["stop"] - kept) // 2
        out.append({**slab, "start": start, "stop": start + kept})
        left -= kept
    order = {_place(slab): number for number, slab in enumerate(slabs)}
    return sorted(out, key=lambda slab: order[_place(slab)])


def _place(slab: Item) -> tuple[Any, ...]:
    return slab["name"], slab["series_uid"], slab.get("unit"), slab.get("label"), slab.get("image")


def _volumes(items: Sequence[Item], key: str) -> list[Item]:
    found: dict[tuple[Any, ...], Item] = {}
    for item in items:
        volume = found.setdefault((item[key], item["series_uid"], item.get("array")), {**item, "slices": 0})
        volume.pop("slice", None)
        volume["slices"] += 1
    return list(found.values())


def _person(volume: Item, key: str) -> str:
    """Return who a volume is of; what is no DICOM says it by its folder."""
    path = Path(str(volume[key]))
    if is_image_file(path) or volume.get("array"):
        return f"folder {volume['patient']}"
    patient = str(read_series(path, volume["series_uid"] or None, allow_gaps=True).datasets[0].get("PatientID") or "")
    return f"PatientID {patient.strip()}" if patient.strip() else f"folder {volume['patient']}"


def _distance(volume: Item, key: str) -> float:
    """Return the distance of the slices of a volume in mm, 0 where it is unknown."""
    if volume["slices"] < 2 or volume.get("array"):
        return 0.0
    item = {name: volume[name] for name in (key, "series_uid")} | {"start": 0, "stop": 2}
    return float(slice_distance(LoadImageOrSeriesd(key, allow_gaps=True)(item)[key]))


def _choose(people: Sequence[Sequence[Item]], distance: Any) -> tuple[dict[str, list[Item]], str]:
    parts: dict[str, list[Item]] = {part: [] for part in ADAPTATION_PARTS}
    count = len(people)
    if count >= _MANY:
        judged, tuning = max(LEAST_UNITS, count // 3), max(1, count // 8)
        by = "people"
    elif count > 2:
        judged, tuning = count // 2, 1
        by = "blocks of slices of people who did not train"
    else:
        judged, tuning = count - 1, 0
        by = "blocks of slices" if count == 1 else "blocks of slices of people who did not train"
    for number, volumes in enumerate(people):
        if number < judged:
            parts["verdict"] += [_whole(volume) for volume in volumes]
        elif number < judged + tuning:
            parts["tune"] += [_whole(volume) for volume in volumes]
        elif count > 2:
            parts["train"] += [_whole(volume) for volume in volumes]
        else:
            for part, slab in _divided(volumes, distance, ("train", "tune") if count == 2 else ADAPTATION_PARTS):
                parts[part].append(slab)
    if by == "people":
        order = {person: unit for unit, person in enumerate(dict.fromkeys(s["person"] for s in parts["verdict"]))}
        parts["verdict"] = [{**slab, "unit": order[slab["person"]]} for slab in parts["verdict"]]
    else:
        blocks = [block for slab in parts["verdict"] for block in _blocks(slab, distance)]
        parts["verdict"] = [{**block, "unit": unit} for unit, block in enumerate(blocks)]
    return parts, by


def _whole(volume: Item) -> Item:
    return {**volume, "start": 0, "stop": volume["slices"]}


def _divided(volumes: Sequence[Item], distance: Any, parts: Sequence[str]) -> Iterator[tuple[str, Item]]:
    """Divide the volumes of one person: thick ones by place, all at the same, thin ones as they come."""
    total = sum(_SHARES[part] for part in parts)
    ends = [sum(_SHARES[part] for part in parts[: at + 1]) / total for at in range(len(parts))]
    thin = [volume for volume in volumes if volume["slices"] < _THICK]
    for at, volume in enumerate(thin):
        yield next(part for part, end in zip(parts, ends, strict=True) if (at + 0.5) / len(thin) <= end), _whole(volume)
    for volume in (one for one in volumes if one["slices"] >= _THICK):
        step = distance(volume)
        gap = max(1, math.ceil(_GAP / step)) if step > 0 else 1
        start = 0
        for part, end in zip(parts, ends, strict=True):
            stop = round(end * volume["slices"])
            if stop > start:
                yield part, {**volume, "start": start, "stop": stop}
            start = stop + gap


def _blocks(slab: Item, distance: Any) -> Iterator[Item]:
    """Cut a slab into blocks, the middles of which lie at least 20 mm apart."""
    step = distance(slab)
    length = max(1, math.ceil(_BLOCK / step)) if step > 0 else 1
    count = max(1, (slab["stop"] - slab["start"]) // length)
    size = slab["stop"] - slab["start"]
    for number in range(count):
        yield {
            **slab,
            "start": slab["start"] + number * size // count,
            "stop": slab["start"] + (number + 1) * size // count,
        }
