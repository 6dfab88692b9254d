"""Restore noisy slices with the weights before and after, and estimate the error of both without a target."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from medrestore_monai.adapt.estimated_verdict import EstimatedVerdict, decide_without_targets
from medrestore_monai.adapt.guards import FLAGS, Guard, guard_kept, measure_guards
from medrestore_monai.adapt.noise_model import NoiseModel, measure_noise
from medrestore_monai.adapt.probed import judged_region
from medrestore_monai.adapt.recorrupted import plain_volume, spacing_of
from medrestore_monai.adapt.request import Request
from medrestore_monai.adapt.risk import Risk, measure_risk
from medrestore_monai.adapt.scores import AFTER, BEFORE, INPUT, Shown, open_weights
from medrestore_monai.adapt.unfit import loader, read_slab
from medrestore_monai.adapt.unfit_noise import MOST_JUDGED, slabs_of
from medrestore_monai.audit import Volume
from medrestore_monai.data import Division, Item
from medrestore_monai.evaluate import Model
from medrestore_monai.neighbors import SLICE_STEPS
from medrestore_monai.report.protocols import PROTOCOLS


@dataclass(frozen=True)
class EstimatedScores:
    """What was judged without a target.

    Attributes:
        verdict: of :func:`~medrestore_monai.adapt.estimated_verdict.decide_without_targets`.
        units: figures of each, for the report.
        guards: what must stay.
        shown: the slice that changed most.
    """

    verdict: EstimatedVerdict
    units: Sequence[Mapping[str, Any]]
    guards: Sequence[Guard]
    shown: Shown | None


@dataclass(frozen=True, eq=False)
class NoisySlab:
    """Slices whose errors are estimated, with the neighbors that the network sees.

    Args:
        item: that they come from.
        image: in HU or SUV, shape ``(1, X, Y, Z)``.
        noise: that they have.
        mask: voxels that count, of the same shape; no neighbor has one.
    """

    item: Mapping[Any, Any]
    image: MetaTensor
    noise: NoiseModel
    mask: Tensor

    @cached_property
    def volume(self) -> Tensor:
        """The image without meta data."""
        return plain_volume(self.image)

    def restored_by(self, model: Model) -> Callable[[Tensor], Tensor]:
        """Return what restores such a volume; the volume itself is restored only once."""
        own: list[Tensor] = []

        def restore(volume: Tensor) -> Tensor:
            if volume is not self.volume:
                return self._restore(model, volume)
            own[:] = own or [self._restore(model, volume)]
            return own[0]

        return restore

    def _restore(self, model: Model, volume: Tensor) -> Tensor:
        image = MetaTensor(volume).copy_meta_from(self.image)
        return plain_volume(model.restore({**self.item, "image": image}).cpu())


def noisy_slab(load: Any, slab: Item, modality: str, most: int, context: int) -> NoisySlab:
    """Measure the noise of a slab, and keep its middle.

    Args:
        load: of :func:`~medrestore_monai.adapt.unfit.loader`.
        slab: slices in a row.
        modality: ``CT`` or ``PT``.
        most: slices whose errors are estimated.
        context: slices beside them that the network sees.
    """
    item = read_slab(load, slab)
    image, spacing = item["image"], spacing_of(item["image"])
    volume = plain_volume(image)
    noise = measure_noise(volume, spacing, modality)
    count = image.shape[-1]
    first = (count - min(most, count)) // 2
    last = first + min(most, count)
    start, stop = max(0, first - context), min(count, last + context)
    mask = torch.from_numpy(judged_region(volume[0].numpy(), spacing[:2], modality))[None]
    mask[..., :first], mask[..., last:] = False, False
    kept: MetaTensor = image[..., start:stop]
    if SLICE_STEPS in image.meta:
        kept.meta[SLICE_STEPS] = image.meta[SLICE_STEPS][start : stop - 1]
    whole = slice(None)
    return NoisySlab(
        {**item, "image": kept}, kept, noise.cropped((whole, whole, slice(start, stop))), mask[..., start:stop]
    )


def score_without_targets(request: Request, division: Division, weights: Path, kept: float) -> EstimatedScores:
    """Estimate the error of both weights on the slices of the verdict, and decide.

    Args:
        request: what is asked for.
        division: of the images.
        weights: those that were adapted.
        kept: share of the noise that the output is to keep.

    Raises:
        ValueError: an image cannot be used.
    """
    models = open_weights(request, {BEFORE: None, AFTER: weights}, {})
    load, slabs = loader(request), slabs_of(division, "verdict")
    each = max(1, MOST_JUDGED // max(1, len(slabs)))
    risks: dict[str, list[list[Risk]]] = {BEFORE: [[], []], AFTER: [[], []]}
    groups: list[int] = []
    units: list[dict[str, Any]] = []
    guards: list[list[Guard]] = []
    shown: tuple[float, Shown] | None = None
    for number, slab in enumerate(slabs):
        one = noisy_slab(load, slab, request.of_modality, each, models[BEFORE].context)
        if not bool(one.mask.any()):
            continue
        restoring = {name: one.restored_by(model) for name, model in models.items()}
        for name, restore in restoring.items():
            for found, noise in zip(risks[name], (one.noise, one.noise.of_family()), strict=True):
                found.append(_mean(measure_risk(restore, one.volume, noise, one.mask, seed=number), one.mask))
        groups.append(slab["unit"])
        restored = {name: restore(one.volume) for name, restore in restoring.items()}
        guards.append(_guards(one, restored, request.of_modality))
        shown = _more_changed(shown, one, restored, request.of_modality)
        before, after = (risks[name][0][-1] for name in (BEFORE, AFTER))
        units.append(
            {
                "unit": slab["unit"] + 1,
                "person": slab["person"] + 1,
                "slices": int(one.mask.any(dim=(0, 1, 2)).sum()),
                "as shipped": _plain(before, kept),
                "adapted": _plain(after, kept),
            }
        )
    passed = [_average([one.passed for one in risks[name][0]]) for name in (BEFORE, AFTER)]
    together = [*_together(guards), guard_kept(*passed)] if groups else []
    verdict = decide_without_targets(risks[BEFORE], risks[AFTER], groups, kept, together)
    return EstimatedScores(verdict, units, together, shown[1] if shown else None)


def _mean(risks: Sequence[Risk], mask: Tensor) -> Risk:
    """Return the figures of a unit: means over its voxels."""
    counts = mask.sum(dim=(0, 1, 2)).tolist()
    return Risk(
        *(float(np.average([getattr(one, name) for one in risks], weights=counts)) for name in Risk.__annotations__)
    )


def _plain(risk: Risk, kept: float) -> dict[str, float | None]:
    figures = {
        "noise_kept": risk.passed,
        "mean_square_removed": risk.change,
        "noise_variance": risk.variance,
        "estimated_error": risk.error_of_reference(kept),
        "removed_correlation": risk.removed_correlation,
    }
    return {name: plain(value) for name, value in figures.items()}


def plain(value: float) -> float | None:
    """Return six digits of a number; ``None`` of one that JSON does not know."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _guards(one: NoisySlab, restored: Mapping[str, Tensor], modality: str) -> list[Guard]:
    chosen = one.mask.any(dim=0).any(dim=0).any(dim=0)
    source, before, after = (
        Volume(image[0][..., chosen].numpy(), modality, spacing_of(one.image))
        for image in (one.volume, restored[BEFORE], restored[AFTER])
    )
    return measure_guards(source, before, after)


def _together(guards: Sequence[Sequence[Guard]]) -> list[Guard]:
    """Return the guards of all units as one of each kind: means, and sums of what is counted."""
    kinds: dict[str, list[Guard]] = defaultdict(list)
    for guard in (guard for of_unit in guards for guard in of_unit):
        kinds[guard.name].append(guard)
    together = []
    for name, same in kinds.items():
        count = 1 if name == FLAGS else len(same)
        shipped, adapted = (sum(values) / count for values in ([g.shipped for g in same], [g.adapted for g in same]))
        tolerance = _average([guard.tolerance for guard in same])
        together.append(Guard(name, shipped, adapted, tolerance, same[0].upward_only))
    return together


def _average(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _more_changed(
    shown: tuple[float, Shown] | None, one: NoisySlab, restored: Mapping[str, Tensor], modality: str
) -> tuple[float, Shown]:
    """Return the slice that changed more, of that which is shown and those of a slab."""
    change = ((restored[AFTER] - restored[BEFORE]).abs() * one.mask).mean(dim=(0, 1, 2))
    at = int(change.argmax())
    if shown is not None and shown[0] >= float(change[at]):
        return shown
    images = {INPUT: one.volume[..., at], **{name: restored[name][..., at] for name in (BEFORE, AFTER)}}
    low, high = float(one.volume.min()), float(one.volume.max())
    return float(change[at]), Shown(images, PROTOCOLS["standard"].window(modality, (low, high)))
