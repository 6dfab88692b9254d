"""One image of an evaluation as a whole: its slices in their order, so that methods which need neighbors see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import Tensor

from medrestore_monai.classical import noise_level
from medrestore_monai.data import Item
from medrestore_monai.engines.errors import unwrapped
from medrestore_monai.evaluate.cases import ListedImage, Source
from medrestore_monai.intensity import FromUnitRanged

_KEPT = ("image", "label")
_LEAST_ERROR = 1e-20  # mean square over that of the window


@dataclass(frozen=True)
class Slice:
    """One slice of an image.

    Args:
        number: in its volume, counted from 0.
        case: the item with ``image`` and, if it is scored, ``label`` in physical units, shape ``(C, X, Y)``.
        scaled: ``image`` as the first model sees it, and what else its scaling leaves.
        is_scored: it is restored and scored; else it is there as a neighbor.
    """

    number: int
    case: Mapping[Any, Any]
    scaled: Mapping[Any, Any]
    is_scored: bool

    @property
    def range(self) -> tuple[float, float]:
        """The range in physical units that the image was scaled from."""
        lower, upper = self.scaled["image"].meta["intensity_range"]
        return float(lower), float(upper)

    @property
    def label(self) -> Tensor:
        """The reference in physical units."""
        label: Tensor = self.case["label"].as_subclass(Tensor)
        return label

    def physical(self, restored: Tensor) -> Tensor:
        """Bring a restored slice, scaled as :attr:`scaled` is, back to the physical unit."""
        back: Tensor = FromUnitRanged("pred", like="image")({**self.scaled, "pred": restored})["pred"]
        return back.as_subclass(Tensor)


@dataclass(frozen=True)
class Volume:
    """The slices of one image; a picture is a volume of one.

    Args:
        slices: in their order; all slices of a volume, or only those to be scored.
    """

    slices: Sequence[Slice]

    @property
    def scored(self) -> list[int]:
        """Places in :attr:`slices` of those that are scored."""
        return [at for at, one in enumerate(self.slices) if one.is_scored]

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Of the voxels in mm, along X, Y and Z; 1 where it is unknown."""
        affine = getattr(self.slices[0].case["image"], "affine", torch.eye(4))  # (4, 4), of the volume
        x, y, z = affine[:3, :3].norm(dim=0).tolist()
        return float(x), float(y), float(z)

    @cached_property
    def level(self) -> float:
        """What :func:`~medrestore_monai.classical.noise_level` measures in all slices together."""
        return noise_level(self.stack(range(len(self.slices))).numpy())

    @cached_property
    def stacks(self) -> list[range]:
        """Runs of slices that follow each other at one distance: only they are neighbors.

        They end where a slice is not listed or was left out; of a series with gaps or uneven distances, each slice is
        a stack of its own.
        """
        ends = [0]
        for at in range(1, len(self.slices)):
            before, here = self.slices[at - 1], self.slices[at]
            is_regular = getattr(here.case["image"], "meta", {}).get("regular", True)
            same_size = before.case["image"].shape == here.case["image"].shape
            if here.number != before.number + 1 or not is_regular or not same_size:
                ends.append(at)
        return [range(start, stop) for start, stop in zip(ends, [*ends[1:], len(self.slices)], strict=True)]

    def stack(self, places: range, scaled: bool = True) -> Tensor:
        """Return some slices as a volume ``(C, X, Y, Z)``, scaled, or in physical units and with their meta data."""
        if scaled:
            images = [self.slices[at].scaled["image"] for at in places]
            return torch.stack([image.as_subclass(Tensor) for image in images], dim=-1)
        cases = [self.slices[at].case["image"] for at in places]
        stacked = torch.stack([image.as_subclass(Tensor) for image in cases], dim=-1)
        return MetaTensor(stacked).copy_meta_from(cases[0]) if isinstance(cases[0], MetaTensor) else stacked

    def psnr(self, restored: Callable[[int], Tensor], window_of: Callable[[Slice], tuple[float, float]]) -> float:
        """Return the mean PSNR in dB of all scored slices; 200 dB counts for a perfect one.

        Args:
            restored: gives the slice at a place, in physical units.
            window_of: the range to score a slice in.
        """
        scores = []
        for at in self.scored:
            one = self.slices[at]
            lower, upper = window_of(one)
            error = restored(at).double().clamp(lower, upper) - one.label.double().clamp(lower, upper)
            relative = error.square().mean() / (upper - lower) ** 2
            scores.append(float(-10 * torch.log10(relative.clamp(min=_LEAST_ERROR))))
        return float(np.mean(scores))


def load_volume(
    source: Source,
    listed: ListedImage,
    scaling: Compose,
    whole: bool,
    report: Callable[[ValueError], None] | None = None,
) -> Volume:
    """Read, degrade and scale the slices of one image, each as it would be by itself: the noise is the same.

    Args:
        source: reads and degrades one item.
        listed: the items.
        scaling: what a model sees of an item.
        whole: all listed slices; else only those that are scored.
        report: called with the error of each slice that cannot be used, which is left out; ``None`` to raise.

    Returns:
        The volume, perhaps without slices.

    Raises:
        ValueError: a slice cannot be used; the message names it.
    """
    slices: list[Slice] = []
    for place, item in enumerate(listed.items):
        is_scored = place in listed.scored
        if not (whole or is_scored):
            continue
        try:
            slices += _load(source, item, scaling, is_scored)
        except ValueError as error:
            if report is None:
                raise
            report(error)
    return Volume(slices)


def _load(source: Source, item: Item, scaling: Compose, is_scored: bool) -> list[Slice]:
    case = source(item)
    with located(item), unwrapped():
        scaled = scaling(dict(case))
    if not is_scored:
        case = {name: value for name, value in case.items() if name != "label"}
    scaled = {name: value for name, value in scaled.items() if name != "label"}
    if case["image"].ndim == 3:
        return [Slice(int(item.get("slice") or 0), case, scaled, is_scored)]
    return [
        Slice(number, _at(case, number, scaled["image"].meta), _at(scaled, number), is_scored)
        for number in range(case["image"].shape[-1])
    ]


def _at(data: Mapping[Any, Any], number: int, like: Mapping[str, Any] | None = None) -> dict[Any, Any]:
    """Return one slice of an item that holds a volume; it keeps the range that the whole was scaled from."""
    out = dict(data)
    for key in _KEPT:
        if key in out:
            image = out[key]
            out[key] = MetaTensor(image.as_subclass(Tensor)[..., number], meta=dict(getattr(image, "meta", {})))
            if like is not None:
                out[key].meta["intensity_range"] = like["intensity_range"]
    return out


@contextmanager
def located(item: Mapping[Any, Any], whole: bool = False) -> Iterator[None]:
    """Name the slice of an item, or its ``whole`` image, in the message of an error."""
    try:
        yield
    except ValueError as error:
        has_slice = item.get("slice") is not None and not whole
        where = f"{item['name']}, slice {item['slice']}" if has_slice else item["name"]
        raise ValueError(f"{where}: {error}") from error
