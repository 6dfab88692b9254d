"""Look at all images before a training: can they be used, and is one on two sides?"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Compose

from medrestore_monai.adapt.pairs import pair_problem
from medrestore_monai.adapt.request import Request
from medrestore_monai.data import Division, Item, LoadImageOrSeriesd
from medrestore_monai.data.find import is_image_file
from medrestore_monai.dicom import read_series
from medrestore_monai.engines.errors import unwrapped
from medrestore_monai.files import DataError
from medrestore_monai.intensity import ToUnitRanged
from medrestore_monai.transforms import NoteOutsided, ToSUVd

LEAST_TO_TRAIN = 4  # slices
_LARGEST_SUV = 100.0


def refuse_unfit(request: Request, division: Division) -> None:
    """Refuse images that cannot be adapted to.

    Args:
        request: what is asked for.
        division: of the images.

    Raises:
        DataError: too few slices train, an image is of another modality or unit, a pair does not match, or an image is
            in two parts.
    """
    count = division.slices("train")
    if count < LEAST_TO_TRAIN:
        raise DataError(
            f"{count} slices are left to train, and {LEAST_TO_TRAIN} are needed: give more images of {request.data}."
        )
    load, seen = loader(request), dict[bytes, tuple[str, Item]]()
    series: dict[str, tuple[str, Item]] = {}
    for part, slabs in division.parts.items():
        for slab in slabs:
            _refuse_twice(part, slab, _uids(slab, division.key), series, "series")
            images = read_slab(load, slab)
            _refuse_twice(part, slab, _digests(images[division.key]), seen, "slice")
            if request.targets == "pairs":
                degraded, clean = (np.asarray(images[key])[0] for key in ("image", "label"))
                if problem := pair_problem(degraded, clean, _pixel(images["label"]), request.of_modality):
                    raise DataError(f"{slab['name']} {problem}: no pairs to learn from.")


def loader(request: Request) -> Compose:
    """Return what loads the images of a slab in HU, SUV or the unit of the file."""
    keys = {"clean": ("label",), "pairs": ("image", "label"), "none": ("image",)}[request.targets]
    modality = request.of_modality
    of_series = modality if modality in ("CT", "PT", "MR") else None
    options: dict[str, Any] = {"allow_gaps": request.allow_gaps, "hu_offset": request.hu_offset}
    steps: list[Any] = [LoadImageOrSeriesd(keys, modality=of_series, **options)]
    if modality == "PT":
        steps += [ToSUVd(keys), *(NoteOutsided(key, largest_suv=_LARGEST_SUV) for key in keys)]
    return Compose(steps)


def read_slab(load: Compose, slab: Item) -> dict[Any, Any]:
    """Return a slab with its images, shape ``(C, X, Y, Z)``.

    Raises:
        DataError: an image cannot be used; the message names it.
    """
    try:
        with unwrapped():
            images: dict[Any, Any] = load(slab)
            keys = [key for key in ("image", "label") if key in slab]
            ToUnitRanged(keys, images[keys[-1]].meta.get("modality") or "RGB")(images)  # refuses what is not finite
            for key in keys:
                images[key] = images[key] if images[key].ndim == 4 else images[key][..., None]
            return images
    except ValueError as error:
        text = " ".join(str(error).split())
        raise DataError(text if slab["name"] in text else f"{slab['name']}: {text}") from error


def _pixel(image: Any) -> tuple[float, float]:
    steps = np.linalg.norm(np.asarray(image.affine)[:3, :2], axis=0)
    return float(steps[0]) or 1.0, float(steps[1]) or 1.0


def _digests(image: Any) -> list[bytes]:
    values = np.asarray(image, dtype=np.float32)
    slices = [np.ascontiguousarray(values[..., number]) for number in range(values.shape[-1])]
    return [hashlib.sha256(one.tobytes()).digest() for one in slices if np.ptp(one) > 0]


def _uids(slab: Item, key: str) -> list[str]:
    """Return what a DICOM series shares with others of the same scan."""
    path = Path(str(slab[key]))
    if is_image_file(path) or slab.get("array"):
        return []
    with suppress(ValueError):
        dataset = read_series(path, slab["series_uid"] or None, allow_gaps=True).datasets[0]
        return [str(dataset[name].value) for name in ("FrameOfReferenceUID", "StudyInstanceUID") if name in dataset]
    return []


def _refuse_twice(part: str, slab: Item, marks: Any, seen: dict[Any, tuple[str, Item]], what: str) -> None:
    for mark in marks:
        before, other = seen.setdefault(mark, (part, slab))
        if before != part and (other["person"], other["name"]) != (slab["person"], slab["name"]):
            if what == "series" and other["person"] == slab["person"]:
                continue  # of one person, whose volumes are all divided at the same place
            raise DataError(
                f"{slab['name']} and {other['name']} hold the same {'scan' if what == 'series' else 'slice'}, in two "
                "parts: remove one of them, or put both into the folder of one person."
            )


__all__ = ["LEAST_TO_TRAIN", "loader", "read_slab", "refuse_unfit"]
