"""One place of an image, with and without its lesion, as a method restored it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from medrestore_monai.evaluate.lesions.kinds import LesionKind
from medrestore_monai.evaluate.lesions.observer import laguerre_gauss
from medrestore_monai.evaluate.lesions.planting import Site
from medrestore_monai.evaluate.lesions.recovery import recovered_contrast
from medrestore_monai.evaluate.volumes import Volume

Slices = Mapping[int, Tensor]
"""Images ``(C, X, Y)`` in physical units by their place in a volume."""

_LEAST_WIDTH = 3.0  # pixels, of the channels


@dataclass(frozen=True, eq=False)
class Pair:
    """What became of one lesion.

    Args:
        patient: of the image.
        place: name of the image, slice and pixel.
        grid: pixel size in mm: differences on one grid can be averaged.
        present: outputs of the observer's channels with the lesion, shape ``(p,)``.
        absent: without it.
        difference: of the two results, shape ``(side, side)``.
        truth: of the two clean images.
    """

    patient: str
    place: tuple[str, int, int, int]
    grid: tuple[float, float]
    present: np.ndarray
    absent: np.ndarray
    difference: np.ndarray
    truth: np.ndarray

    @property
    def contrast(self) -> float:
        """Part of the lesion's contrast that is left."""
        return recovered_contrast(self.difference, self.truth)


def pairs_of(
    kind: LesionKind, sites: Sequence[Site], absent: Volume, present: Volume, before: Slices, after: Slices
) -> list[Pair]:
    """Compare the results of one method at all places.

    Args:
        kind: of the lesions.
        sites: in the volume.
        absent: the volume without lesions.
        present: with them.
        before: results without lesions.
        after: with them.
    """
    pixel = absent.spacing[:2]
    half = int(np.ceil(kind.diameter / min(pixel)))  # what is compared is two diameters wide
    half = max(half, int(_LEAST_WIDTH))
    width = max(2 / 3 * kind.diameter / float(np.mean(pixel)), _LEAST_WIDTH)
    channels = laguerre_gauss(2 * half + 1, width)
    at_slice = {absent.slices[at].number: at for at in absent.scored}
    pairs = []
    for site in sites:
        at = at_slice[site.slice]
        images = (before[at], after[at], absent.slices[at].label, present.slices[at].label)
        patches = [_patch(image, site, half) for image in images]
        outputs = [np.tensordot(channels, patch, 2) for patch in patches[:2]]
        case = absent.slices[at].case
        place = (str(case["name"]), site.slice, site.x, site.y)
        differences = patches[1] - patches[0], patches[3] - patches[2]
        pairs.append(Pair(str(case["patient"]), place, pixel, outputs[1], outputs[0], *differences))
    return pairs


def _patch(image: Tensor, site: Site, half: int) -> np.ndarray:
    """Cut a square around a place; beyond the image there is the value of its border."""
    plane = image[0].double().cpu().numpy()
    rows, columns = (
        np.clip(np.arange(center - half, center + half + 1), 0, size - 1)
        for center, size in zip((site.x, site.y), plane.shape, strict=True)
    )
    cut: np.ndarray = plane[np.ix_(rows, columns)]
    return cut
