"""Clean images, to be degraded on the fly: a plain folder, IXI, MedMNIST."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from medrestore_monai.data.checks import Problems, check_and_slice
from medrestore_monai.data.find import Item, find_images
from medrestore_monai.data.parts import PatientSplit, check_part, choose_part
from medrestore_monai.files import walk
from medrestore_monai.images import list_arrays, read_picture_set

_MEDMNIST = {"train": "train_images", "validation": "val_images", "test": "test_images"}


def training_slices(
    folder: str | os.PathLike[str],
    part: str,
    fraction: float = 0.1,
    seed: int = 0,
    key: str = "label",
    split: PatientSplit | None = None,
    channels: int | None = None,
    full_check: bool = False,
    allow_gaps: bool = False,
) -> list[Item]:
    """List the slices of clean images in any format the package reads, as a bundle's data set takes them.

    The parts are the folders ``train``, ``validation`` and ``test`` below ``folder``, where there are such; else
    patients are drawn. Headers are looked at, and all that is wrong is in one error.

    Args:
        folder: see :func:`~medrestore_monai.data.find_images`.
        part: ``train``, ``validation``, ``test`` or ``all``.
        fraction: part of the patients held back for validation.
        seed: of the draw.
        key: name of the image in the items.
        split: who belongs where, instead of ``fraction`` and ``seed``.
        channels: how many every image must have, such as 3 for RGB; ``None`` for any.
        full_check: read every pixel, not only headers.
        allow_gaps: take DICOM series with missing slices.

    Returns:
        ``{key: path, "slice": number, "series_uid": ..., "patient": ..., "name": ...}`` for every slice.

    Raises:
        ValueError: no image, or unfit ones; too few patients; or no such part.
    """
    check_part(part)
    problems = Problems(folder)

    def list_images(root: Path) -> list[Item]:
        items = [_entry(item, key) for item in find_images(root, problems)]
        if not items:
            problems.raise_any()
        return items

    entries = choose_part(Path(folder), part, split or PatientSplit(validation=fraction, seed=seed), list_images)
    return check_and_slice(entries, [key], problems, channels, full_check, allow_gaps)


def training_volumes(folder: str | os.PathLike[str], part: str, key: str = "label", **options: Any) -> list[Item]:
    """List clean volumes, as :func:`training_slices` lists their slices; an image of one slice is a volume, too.

    Args:
        folder: see there.
        part: see there.
        key: see there.
        options: the other arguments of :func:`training_slices`.

    Returns:
        ``{key: path, "series_uid": ..., "patient": ..., "name": ..., "slices": ...}`` for every volume, with the number
        of its slices.

    Raises:
        ValueError: as :func:`training_slices`, or an image has several channels.
    """
    volumes: dict[tuple[str, str], Item] = {}
    for item in training_slices(folder, part, key=key, **{**options, "channels": 1}):
        volume = volumes.setdefault((item[key], item["series_uid"]), {**item, "slices": 0})
        volume.pop("slice", None)
        volume["slices"] += 1
    return list(volumes.values())


def spread_slices(
    folder: str | os.PathLike[str], part: str, count: int, key: str = "label", **options: Any
) -> list[Item]:
    """List about ``count`` slices of clean images, spread evenly, as slabs of one slice: each is read with neighbors.

    Args:
        folder: see :func:`training_slices`.
        part: see there.
        count: at least so many slices where there are such, and fewer than twice as many.
        key: see there.
        options: the other arguments of :func:`training_slices`.

    Returns:
        ``{key: path, "start": number, "stop": number + 1, ...}`` for every slice, without its ``slice``.

    Raises:
        ValueError: as :func:`training_slices`, or ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}.")
    slices = training_slices(folder, part, key=key, **{**options, "channels": 1})
    chosen = slices[:: max(1, len(slices) // count)]
    slabs = [{**item, "start": item["slice"], "stop": item["slice"] + 1} for item in chosen]
    return [{name: value for name, value in slab.items() if name != "slice"} for slab in slabs]


def _entry(item: Item, key: str) -> Item:
    return {key: item["path"], **{name: value for name, value in item.items() if name != "path"}}


def ixi(
    folder: str | os.PathLike[str],
    part: str,
    contrast: str = "T2",
    slices: int = 100,
    split: PatientSplit | None = None,
    key: str = "label",
    full_check: bool = False,
) -> list[Item]:
    """List the central slices of IXI's brain volumes, as they are after unpacking: ``IXI002-Guys-0828-T2.nii.gz``.

    Args:
        folder: holds the volumes, also in subfolders, also divided into ``train``, ``validation`` and ``test``.
        part: ``train``, ``validation``, ``test`` or ``all``.
        contrast: ``T1``, ``T2``, ``PD`` or ``MRA``.
        slices: how many of each volume, from its middle; 0 for all.
        split: who belongs where; ``PatientSplit(validation=59, test=114)`` has the numbers of Restore-RWKV.
        key: name of the image in the items.
        full_check: read every voxel, not only headers.

    Returns:
        ``{key: path, "slice": number, "series_uid": "", "patient": "IXI002", "name": ...}`` for every slice.

    Raises:
        ValueError: no volume of this contrast, or unfit ones; too few patients; or no such part.
    """
    check_part(part)
    problems = Problems(folder)
    pattern = re.compile(rf"(IXI\d+)-.*-{re.escape(contrast)}\.nii(\.gz)?")

    def list_volumes(root: Path) -> list[Item]:
        paths = sorted(place / name for place, _, names in walk(root) for name in names if pattern.fullmatch(name))
        if not paths:
            raise ValueError(f"{root} holds no volume IXI...-{contrast}.nii.gz.")
        return [
            {
                key: str(path),
                "series_uid": "",
                "patient": path.name.partition("-")[0],
                "name": path.relative_to(root).as_posix(),
            }
            for path in paths
        ]

    entries = choose_part(Path(folder), part, split, list_volumes)
    return check_and_slice(entries, [key], problems, 1, full_check, central=slices)


def medmnist(
    path: str | os.PathLike[str],
    part: str,
    key: str = "label",
    channels: int | None = None,
    full_check: bool = False,
) -> list[Item]:
    """List the pictures of one MedMNIST archive, such as ``pathmnist.npz`` or ``pathmnist_64.npz``.

    Every process that reads it keeps one part in memory; ``prepare_medmnist.py`` writes large ones as files.

    Args:
        path: the ``.npz`` file with ``train_images``, ``val_images`` and ``test_images``: 8 bit, gray
            ``(N, rows, columns)`` or RGB ``(N, rows, columns, 3)``.
        part: ``train``, ``validation``, ``test`` or ``all`` there are.
        key: name of the picture in the items.
        channels: 1 or 3, if it must be that; ``None`` for either.
        full_check: read every pixel, not only headers.

    Returns:
        ``{key: path, "array": "train_images", "slice": number, ...}`` for every picture; MedMNIST names no patients, so
        each picture is its own.

    Raises:
        ValueError: the archive is damaged or of another layout, or has no such part.
    """
    check_part(part)
    path = Path(path)
    problems = Problems(path)
    arrays = list_arrays(path)
    there = {name: array for name, array in _MEDMNIST.items() if array in arrays}
    if not there or (part != "all" and part not in there):
        wanted = _MEDMNIST.get(part, "train_images")
        raise ValueError(f"{path} has no array {wanted}, only {', '.join(list(arrays)[:8]) or 'none'}.")
    items: list[Item] = []
    for name, array in there.items() if part == "all" else [(part, there[part])]:
        shape, dtype = arrays[array]
        gray, color = len(shape) == 3, len(shape) == 4 and shape[3] == 3
        if dtype != np.uint8 or not (gray or color):
            problems.append(f"{array} must hold 8 bit gray or RGB pictures, but is {dtype} {shape}")
        elif channels not in (None, 3 if color else 1):
            problems.append(f"{array} has {3 if color else 1} channels, where {channels} are expected")
        elif full_check:
            read_picture_set(path, array)
        items += [_picture(path, key, name, array, number) for number in range(shape[0])]
    problems.raise_any()
    return items


def _picture(path: Path, key: str, part: str, array: str, number: int) -> Item:
    name = f"{path.stem}/{part}/{number:06d}"
    return {key: str(path), "array": array, "slice": number, "series_uid": "", "patient": name, "name": name}
