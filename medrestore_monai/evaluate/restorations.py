"""How each method of an evaluation restores the slices of a volume that are scored.

A method prepares a volume, which does all work that concerns it as a whole, and returns what gives one slice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from monai.data import MetaTensor
from torch import Tensor

from medrestore_monai.classical import KNOWN, Classical, Parameters, Search
from medrestore_monai.evaluate.cases import known_psf
from medrestore_monai.evaluate.models import Model
from medrestore_monai.evaluate.volumes import Slice, Volume
from medrestore_monai.inferers import SliceWiseInferer
from medrestore_monai.neighbors import SLICE_STEPS, steps_of_affine
from medrestore_monai.report import oracle_name

Prepared = Callable[[int], Tensor]
"""From the place of a scored slice in its volume to the restored slice in physical units, shape ``(C, X, Y)``."""

Method = Callable[[Volume], Prepared]


def by_nothing(volume: Volume) -> Prepared:
    """Return the input."""
    return lambda at: volume.slices[at].case["image"].as_subclass(Tensor)


def by_model(model: Model, volume: Volume) -> Prepared:
    """Restore with a bundle: slice by slice, or with the neighbors that its network sees."""
    if not model.context:
        return lambda at: model.restore(volume.slices[at].case)
    restored: dict[int, Tensor] = {}
    for stack in volume.stacks:
        for slab in _with_neighbors([at for at in volume.scored if at in stack], stack, model.context):
            image = volume.stack(slab, scaled=False)
            if isinstance(image, MetaTensor):
                image.meta[SLICE_STEPS] = steps_of_affine(image.affine.numpy(), len(slab))
            output = model.restore({**volume.slices[slab.start].case, "image": image})
            restored |= {at: output[..., at - slab.start].clone() for at in volume.scored if at in slab}
    return restored.__getitem__


def _with_neighbors(scored: list[int], stack: range, context: int) -> list[range]:
    """Return the slabs of a stack that hold the scored slices and their neighbors; each scored slice is in one."""
    slabs: list[range] = []
    for at in scored:
        start, stop = max(stack.start, at - context), min(stack.stop, at + context + 1)
        if slabs and start < slabs[-1].stop:
            slabs[-1] = range(slabs[-1].start, stop)
        else:
            slabs.append(range(start, stop))
    return slabs


def by_classical(method: Classical, volume: Volume) -> Prepared:
    """Restore with a classical method what the first model sees: slice by slice, or each stack of slices at once."""
    if not method.needs_neighbors:
        return lambda at: _restore_slice(method, volume.slices[at])
    restored: dict[int, Tensor] = {}
    for stack in volume.stacks:
        scored = [at for at in volume.scored if at in stack]
        if scored:
            output = method.restore_volume(volume.stack(stack), volume.spacing)
            restored |= {at: output[..., at - stack.start].clone() for at in scored}
    return lambda at: volume.slices[at].physical(restored[at])


def _restore_slice(method: Classical, one: Slice) -> Tensor:
    infer = SliceWiseInferer(clip_output=True, add_clipped=True)
    return one.physical(infer(one.scaled["image"][None], method, psf=known_psf(one.case))[0])


def by_baseline(name: str, parameters: Parameters, known: Mapping[str, float], volume: Volume) -> Prepared:
    """Restore with a classical method and the parameters for the noise level of the volume."""
    level = volume.level if parameters.depends_on_level else 1.0
    return by_classical(Classical(name, {**parameters.at(level), **known}), volume)


def by_oracle(
    name: str,
    parameters: Parameters,
    known: Mapping[str, float],
    window_of: Callable[[Slice], tuple[float, float]],
    volume: Volume,
) -> Prepared:
    """Restore with the parameters that are best for the scored slices of this volume by their label."""

    def score(values: Mapping[str, float]) -> float:
        return volume.psnr(by_classical(Classical(name, {**values, **known}), volume), window_of)

    tunable = [one for one in parameters.values if one not in KNOWN]
    best = Search(tunable, score).run()
    return by_classical(Classical(name, {**best, **known}), volume)


def methods_of(
    models: Sequence[Model],
    baselines: Mapping[str, Parameters],
    window_of: Callable[[Slice], tuple[float, float]] | None = None,
) -> dict[str, Method]:
    """Return all methods in the order of the tables: the input, classical methods, their oracles, models.

    Args:
        models: of one modality.
        baselines: parameters of the classical methods by name.
        window_of: the range to score a slice in, for oracles; ``None`` for none.
    """
    known = {name: known_parameters(parameters, models[0].settings) for name, parameters in baselines.items()}
    methods: dict[str, Method] = {"input": by_nothing}
    methods |= {name: partial(by_baseline, name, one, known[name]) for name, one in baselines.items()}
    if window_of is not None:
        methods |= {
            oracle_name(name): partial(by_oracle, name, one, known[name], window_of) for name, one in baselines.items()
        }
    return methods | {model.name: partial(by_model, model) for model in models}


def need_neighbors(models: Sequence[Model], baselines: Mapping[str, Parameters]) -> bool:
    """Return whether a method needs all slices of a volume: as neighbors, or to measure the noise."""
    return any(model.context for model in models) or any(
        one.depends_on_level or Classical(name, one.at(1.0)).needs_neighbors for name, one in baselines.items()
    )


def known_parameters(parameters: Parameters, settings: Mapping[str, Any]) -> dict[str, float]:
    """Return the parameters of a method that a bundle's settings hold, such as the measured part of k-space."""
    usual = parameters.at(1.0)
    return {name: float(settings.get(KNOWN[name], usual[name])) for name in usual if name in KNOWN}
