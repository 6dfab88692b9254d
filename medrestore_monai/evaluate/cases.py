"""The images of an evaluation: pairs as they are, or clean images that a bundle's own description degrades."""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from monai.transforms import Compose
from scipy.signal import convolve2d

from medrestore_monai.data import (
    Item,
    LoadImageOrSeriesd,
    gopro,
    ixi,
    low_dose_ct,
    medmnist,
    paired_folders,
    realblur,
)
from medrestore_monai.engines.errors import unwrapped
from medrestore_monai.evaluate.models import Model
from medrestore_monai.texts import one_line
from medrestore_monai.transforms import ToSUVd
from medrestore_monai.transforms.blur.kernels import disk_kernel, gaussian_kernel, linear_motion_kernel, motion_kernel

_Layout = Callable[..., list[Item]]
_PAIRED: dict[str, _Layout] = {
    "paired": paired_folders,
    "gopro": gopro,
    "realblur": realblur,
    "low-dose-ct": low_dose_ct,
}
_CLEAN: dict[str, _Layout] = {"ixi": ixi, "medmnist": medmnist}
WITH_GAPS = ("paired", "low-dose-ct")
LAYOUTS = ("clean", *_CLEAN, *_PAIRED)

KEYS = ("image", "label")

_KERNELS: dict[str, Callable[..., np.ndarray]] = {
    "motion_blur": motion_kernel,
    "published_motion_blur": partial(motion_kernel, divisor="length"),
    "linear_motion_blur": linear_motion_kernel,
    "gaussian_blur": lambda sigma: np.outer(gaussian_kernel(sigma), gaussian_kernel(sigma)),
    "defocus_blur": disk_kernel,
}


@dataclass(frozen=True)
class ListedImage:
    """The slices of one image.

    Args:
        items: all that are listed, in their order.
        scored: places in ``items`` of those to score.
    """

    items: Sequence[Item]
    scored: Sequence[int]


@dataclass(frozen=True)
class Source:
    """The images to evaluate on.

    Args:
        items: those to score, one per image or slice.
        load: from an item to ``image`` and ``label`` in physical units, shape ``(C, X, Y[, Z])``.
        modality: a key of :data:`~medrestore_monai.intensity.INTENSITY_RANGES`.
        listed: all items of the data set, in its order; ``items`` are among them.
    """

    items: Sequence[Item]
    load: Compose
    modality: str
    listed: Sequence[Item] = ()

    def images(self) -> list[ListedImage]:
        """Put the slices of each image together; images of which no slice is scored are left out."""
        scored = {id(item) for item in self.items}
        images = [list(items) for _, items in itertools.groupby(self.listed or self.items, key=image_of)]
        found = [ListedImage(one, [at for at, item in enumerate(one) if id(item) in scored]) for one in images]
        return [one for one in found if one.scored]

    def __call__(self, item: Item) -> dict[Any, Any]:
        """Read and degrade one item.

        Raises:
            ValueError: it cannot be used; the message names it.
        """
        try:
            with unwrapped():
                loaded: dict[Any, Any] = self.load(item)
        except (ValueError, OSError) as error:
            text = one_line(str(error))
            raise ValueError(text if item["name"] in text else f"{item['name']}: {text}") from error
        if loaded["image"].shape != loaded["label"].shape:
            shapes = [tuple(loaded[key].shape) for key in ("image", "label")]
            raise ValueError(f"{item['name']}: image {shapes[0]} and label {shapes[1]} differ in shape.")
        return {**item, **loaded}


def open_source(
    model: Model,
    data: str | os.PathLike[str],
    layout: str,
    part: str,
    allow_gaps: bool,
    limit: int | None,
    hu_offset: float | None = None,
) -> Source:
    """List the images of a data set.

    Args:
        model: its data list and degradation serve for clean images.
        data: the data set.
        layout: one of :data:`LAYOUTS`.
        part: ``all``, ``train``, ``validation`` or ``test``.
        allow_gaps: take DICOM series with missing slices, of pairs.
        limit: score this many slices, evenly spread; ``None`` for all. The others of their volumes are neighbors.
        hu_offset: of CT pairs; clean images are read as the model's ``evaluate.json`` says.

    Raises:
        ValueError: the data set cannot be used.
    """
    modality = model.modality
    load = model.degrading
    if layout == "clean":
        items = model.items()
    elif layout in _CLEAN:
        items = _CLEAN[layout](data, part)
    else:
        gaps = {"allow_gaps": allow_gaps} if layout in WITH_GAPS else {}
        items = _PAIRED[layout](data, part, **gaps)
        of_series = modality if modality in ("CT", "PT", "MR") else None
        to_suv = [ToSUVd(KEYS)] if modality == "PT" else []
        load = Compose(
            [LoadImageOrSeriesd(KEYS, modality=of_series, allow_gaps=allow_gaps, hu_offset=hu_offset), *to_suv]
        )
    scored = items
    if limit is not None and limit < len(items):
        scored = [items[index * len(items) // limit] for index in range(limit)]
    return Source(scored, load, modality, items)


def image_of(item: Item) -> tuple[str, ...]:
    """Return what the slices of one image have in common, and no other image has."""
    return tuple(str(item.get(key, "")) for key in ("image", "label", "array", "series_uid", "patient", "name"))


def known_psf(item: Mapping[Any, Any]) -> np.ndarray | None:
    """Return the kernel that blurred an item, from the values that the degradations noted; ``None`` where none did."""
    psf: np.ndarray | None = None
    for record, kernel_of in _KERNELS.items():
        if isinstance(item.get(record), Mapping):
            kernel = kernel_of(**item[record])
            psf = kernel if psf is None else convolve2d(psf, kernel)
    return psf
