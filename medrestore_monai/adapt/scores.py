"""Restore the slices that are judged with the weights before and after, and score both against the target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from torch import Tensor

from medrestore_monai.adapt.request import Request
from medrestore_monai.audit import Volume
from medrestore_monai.audit.gain import measure_gain
from medrestore_monai.audit.regions import body_mask, smoothed
from medrestore_monai.data import Item, LoadImageOrSeriesd
from medrestore_monai.data.adaptation import single_slices
from medrestore_monai.evaluate import Candidate, Model, Source, load_volume, open_model
from medrestore_monai.evaluate.restorations import by_model
from medrestore_monai.report.protocols import PROTOCOLS
from medrestore_monai.transforms import ToSUVd

BEFORE, AFTER, INPUT = "before", "after", "input"
MOST_SLICES = 40  # that are judged
_BAND = 0.15, 0.6  # of the Nyquist frequency, for the signal gain


@dataclass
class UnitScores:
    """What was measured of one unit.

    Args:
        unit: its number.
        person: number of whom it is of.
        slices: how many were scored.
        psnr: in dB, means over its slices, by ``input``, ``before`` and ``after``.
        ssim: the same.
        mean: of restored minus target in the body, in the unit of the image; of PET and MR over the mean of the target.
        gain: signal gain from 0.15 to 0.6 of the Nyquist frequency; nothing where there is too little structure.
    """

    unit: int
    person: int
    slices: int
    psnr: dict[str, float] = field(default_factory=dict)
    ssim: dict[str, float] = field(default_factory=dict)
    mean: dict[str, float] = field(default_factory=dict)
    gain: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """One slice to show: images by name in physical units, shape ``(C, X, Y)``, and the window."""

    images: Mapping[str, Tensor]
    window: tuple[float, float]


def score_units(
    request: Request, slabs: Sequence[Item], weights: Path, values: Mapping[str, Any]
) -> tuple[list[UnitScores], Shown | None]:
    """Score every unit with the weights that ship and with those that were adapted.

    Args:
        request: what is asked for.
        slabs: the part of the verdict.
        weights: those that were adapted.
        values: of the bundle's ``evaluate.json``, such as counts that were measured.

    Returns:
        The scores by unit, and the slice that changed most; without slices whose target is constant, and without units
        that have no others.

    Raises:
        ValueError: an image cannot be used.
    """
    models = open_weights(request, {BEFORE: None, AFTER: weights}, values)
    window_of = PROTOCOLS["standard"].window
    found: dict[int, _Collected] = defaultdict(_Collected)
    shown: tuple[float, Shown] | None = None
    source = _source(request, models[BEFORE], slabs)
    for listed in source.images():
        volume = load_volume(source, listed, models[BEFORE].scaling, True)
        restored = {name: by_model(model, volume) for name, model in models.items()}
        for at in volume.scored:
            one = volume.slices[at]
            window = window_of(request.of_modality, one.range)
            images = {INPUT: one.case["image"].as_subclass(Tensor), **{n: take(at) for n, take in restored.items()}}
            collected = found[int(one.case["unit"])]
            place = int(one.case["person"]), volume.spacing
            if not collected.add(images, one.label, request.of_modality, window, *place):
                continue
            change = float((images[AFTER] - images[BEFORE]).abs().mean())
            if shown is None or change > shown[0]:
                shown = change, Shown({**images, "target": one.label}, window)
    scored = [found[unit].scores(unit, request.of_modality) for unit in sorted(found) if found[unit].slices]
    return scored, shown[1] if shown else None


def open_weights(request: Request, files: Mapping[str, Path | None], values: Mapping[str, Any]) -> dict[str, Model]:
    """Open the bundle with several weights, by name.

    Args:
        request: what is asked for.
        files: of weights; ``None`` for those that ship.
        values: of the bundle's ``evaluate.json``.
    """
    wishes = {"seed": request.seed, "hu_offset": request.hu_offset if request.of_modality == "CT" else None, **values}
    wishes["allow_gaps"] = request.allow_gaps
    models = {}
    for name, file in files.items():
        candidate = Candidate(name, request.opened, weights=file)
        models[name] = open_model(candidate, request.of_modality, request.data, request.device, {}, wishes)
    return models


def _source(request: Request, model: Model, slabs: Sequence[Item]) -> Source:
    load: Any = model.degrading
    if request.targets == "pairs":
        modality = request.of_modality
        of_series = modality if modality in ("CT", "PT", "MR") else None
        steps = [ToSUVd(("image", "label"))] if modality == "PT" else []
        options: dict[str, Any] = {"allow_gaps": request.allow_gaps, "hu_offset": request.hu_offset}
        load = Compose([LoadImageOrSeriesd(("image", "label"), modality=of_series, **options), *steps])
    listed = [item for slab in slabs for item in single_slices(slab)]
    scored = list(_chosen(listed))
    return Source(scored, load, request.of_modality, _with_neighbors(scored, listed, model.context))


def _with_neighbors(scored: Sequence[Item], listed: Sequence[Item], context: int) -> list[Item]:
    """Return the slices that are scored, with those that the network sees beside them."""
    wanted = {(*_volume_of(item), item["slice"] + step) for item in scored for step in range(-context, context + 1)}
    chosen = {id(item) for item in scored}
    return [item for item in listed if id(item) in chosen or (*_volume_of(item), item["slice"]) in wanted]


def _volume_of(item: Item) -> tuple[Any, ...]:
    return tuple(item.get(name) for name in ("image", "label", "array", "series_uid"))


def _chosen(listed: Sequence[Item]) -> Iterator[Item]:
    """Choose slices, as many of each unit as of the others, evenly spread."""
    units: dict[int, list[Item]] = defaultdict(list)
    for item in listed:
        units[item["unit"]].append(item)
    each = max(1, MOST_SLICES // max(1, len(units)))
    for items in units.values():
        count = min(each, len(items))
        for number in range(count):
            yield items[(2 * number + 1) * len(items) // (2 * count)]


class _Collected:
    """The slices of one unit."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float]]] = {"psnr": defaultdict(list), "ssim": defaultdict(list)}
        self.stacks: dict[str, list[np.ndarray]] = defaultdict(list)
        self.person, self.spacing, self.slices = 0, (1.0, 1.0, 1.0), 0

    def add(
        self,
        images: Mapping[str, Tensor],
        label: Tensor,
        modality: str,
        window: tuple[float, float],
        person: int,
        spacing: tuple[float, float, float],
    ) -> bool:
        """Score one slice; return whether it counts, as its target is not constant, which makes PSNR infinite."""
        if PROTOCOLS["standard"].leaves_out(label, window):
            return False
        self.person, self.spacing, self.slices = person, spacing, self.slices + 1
        for name, image in images.items():
            scores = PROTOCOLS["standard"].score(image, label, modality, window)["whole slice"]
            for score, values in self.values.items():
                values[name].append(scores[score])
        for name, image in {**images, "target": label}.items():
            self.stacks[name].append(torch.as_tensor(image).float().mean(dim=0).cpu().numpy())
        return True

    def scores(self, unit: int, modality: str) -> UnitScores:
        out = UnitScores(unit, self.person, self.slices)
        for score, values in self.values.items():
            getattr(out, score).update({name: float(np.mean(listed)) for name, listed in values.items()})
        for name in (BEFORE, AFTER):
            shifts, gains = [], []
            for image, target in _of_one_size(self.stacks[name], self.stacks["target"]):
                reference = Volume(target, modality, self.spacing)
                body = body_mask(smoothed(reference.array, reference.pixel), modality)
                if body.any():
                    scale = 1.0 if modality == "CT" else max(abs(float(target[body].mean())), 1e-9)
                    shifts.append(float((image - target)[body].mean()) / scale)
                gain = measure_gain(reference, reference.like(image))
                nyquist = 0.5 / max(reference.pixel)
                inside = (gain.frequency > _BAND[0] * nyquist) & (gain.frequency <= _BAND[1] * nyquist)
                gains += [float(gain.gain[inside].mean())] if inside.any() else []
            if shifts:
                out.mean[name] = float(np.mean(shifts))
            if gains:
                out.gain[name] = float(np.mean(gains))
        return out


def _of_one_size(*lists: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
    """Stack slices of one size, one stack of each list at a time."""
    sizes = dict.fromkeys(one.shape for one in lists[0])
    for size in sizes:
        yield tuple(np.stack([one for one in listed if one.shape == size], axis=-1) for listed in lists)
