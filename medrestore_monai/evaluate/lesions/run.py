"""Restore images with and without lesions by every method, and compare them place by place."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.progress import Progress

from medrestore_monai import __version__
from medrestore_monai.audit import Volume as Image
from medrestore_monai.data import Item
from medrestore_monai.evaluate.cases import ListedImage, image_of
from medrestore_monai.evaluate.groups import Group, open_groups
from medrestore_monai.evaluate.lesions.inventions import Inventions, count_inventions
from medrestore_monai.evaluate.lesions.kinds import KINDS, LesionKind
from medrestore_monai.evaluate.lesions.pairs import Pair, Slices, pairs_of
from medrestore_monai.evaluate.lesions.planting import Site, planted
from medrestore_monai.evaluate.lesions.sites import find_sites
from medrestore_monai.evaluate.lesions.sphere import BLURS
from medrestore_monai.evaluate.lesions.summary import InventionRow, LesionRow, summarize_inventions, summarize_pairs
from medrestore_monai.evaluate.lesions.table import write_report
from medrestore_monai.evaluate.request import Request
from medrestore_monai.evaluate.restorations import Method, methods_of, need_neighbors
from medrestore_monai.evaluate.volumes import Volume, load_volume, located
from medrestore_monai.report import new_folder

_NEIGHBORS = 6  # slices on each side of one with lesions that methods see


@dataclass
class _Found:
    """What comes together for one modality."""

    pairs: dict[tuple[LesionKind, str], list[Pair]] = field(default_factory=dict)
    inventions: dict[str, list[Inventions]] = field(default_factory=dict)
    slices: int = 0
    notes: list[str] = field(default_factory=list)


def evaluate_lesions(request: Request, progress: bool = False) -> tuple[list[LesionRow], list[InventionRow]]:
    """Plant lesions in the images of an evaluation, and write what the methods leave of them.

    Args:
        request: what to evaluate; its limit is the number of slices that get lesions, at most twelve in each.
        progress: show a progress bar on the standard error stream.

    Returns:
        The rows of both tables.

    Raises:
        ValueError: as :meth:`Request.check`; a modality has no lesions; an image cannot be used, or none has room for a
            lesion. Nothing was written.
        OSError: the report cannot be written.
    """
    check_lesions(request)
    lesions: list[LesionRow] = []
    inventions: list[InventionRow] = []
    notes: list[str] = []
    about: dict[str, Any] = {
        "medrestore-monai": __version__,
        "data": {"folder": request.data.name, "layout": request.layout, "part": request.part},
        "seed": request.seed,
        "modalities": {},
    }
    for group in open_groups(request):
        found = _run(request, group, progress)
        if not found.pairs:
            raise ValueError(f"{request.data} has no slice of {group.modality} with room for a lesion.")
        lesions += [
            summarize_pairs(group.modality, kind, method, pairs, request.seed)
            for (kind, method), pairs in found.pairs.items()
        ]
        inventions += [summarize_inventions(group.modality, name, counts) for name, counts in found.inventions.items()]
        about["modalities"][group.modality] = _about(group, found)
        notes += found.notes
    with new_folder(request.output, request.overwrite) as folder:
        write_report(folder, about, lesions, inventions, notes)
    return lesions, inventions


def check_lesions(request: Request) -> None:
    """Refuse what cannot work whatever the images are.

    Raises:
        ValueError: as :meth:`Request.check`, a modality has no lesions, or the request asks for scores.
    """
    request.check()
    without = [modality for modality in request.groups if modality not in KINDS]
    if without:
        raise ValueError(f"lesions are planted in {', '.join(KINDS)}, not in {', '.join(without)}.")
    if request.oracle or request.protocol != "standard" or request.against != "input":
        raise ValueError("lesions have no protocol, oracle or p-values: leave these options out.")


def _run(request: Request, group: Group, progress: bool) -> _Found:
    found, methods = _Found(), methods_of(group.models, group.baselines)
    images = group.source.images()
    with Progress(console=Console(stderr=True), disable=not progress) as shown:
        task = shown.add_task("Evaluating lesions", total=len(images) * (len(KINDS[group.modality]) + 1))
        for listed in images:
            try:
                _one_image(request, group, _near(listed), methods, found, lambda: shown.advance(task))
            except ValueError as error:
                if not request.skip_bad:
                    raise
                found.notes.append(f"left out: {error}")
    return found


def _one_image(
    request: Request,
    group: Group,
    listed: ListedImage,
    methods: Mapping[str, Method],
    found: _Found,
    advance: Callable[[], object],
) -> None:
    """Restore one image without lesions, and with those of each kind."""
    kinds, scaling = KINDS[group.modality], group.models[0].scaling
    whole = need_neighbors(group.models, group.baselines)
    largest = max(kind.diameter for kind in kinds)
    reach = max(kind.diameter / 2 + BLURS * kind.axial_blur for kind in kinds)
    absent = _spaced(load_volume(group.source, listed, scaling, whole), reach)
    sites = _sites(absent, listed.items[0], group.modality, largest, request.seed)
    before = _restored(methods, absent)
    _count_inventions(found, group.modality, absent, before)
    found.slices += len(absent.scored)
    advance()
    load, degrade = _loading(group)
    places = {image_of(listed.items[0]): sites}
    for kind in kinds if sites else ():
        source = planted(group.source, load, degrade, kind, places)
        present = _scored_as(absent, load_volume(source, listed, scaling, whole))
        after = _restored(methods, present)
        for name in methods:
            pairs = pairs_of(kind, sites, absent, present, before[name], after[name])
            found.pairs.setdefault((kind, name), []).extend(pairs)
        advance()


def _near(listed: ListedImage) -> ListedImage:
    """Leave out slices that no method needs."""
    kept = [at for at in range(len(listed.items)) if any(abs(at - scored) <= _NEIGHBORS for scored in listed.scored)]
    return ListedImage([listed.items[at] for at in kept], [kept.index(at) for at in listed.scored])


def _spaced(volume: Volume, reach: float) -> Volume:
    """Score only slices that no lesion of another one reaches, with spheres that reach so many mm along the axis."""
    chosen: list[int] = []
    for at in volume.scored:
        number = volume.slices[at].number
        if not chosen or (number - volume.slices[chosen[-1]].number - 0.5) * volume.spacing[2] >= reach:
            chosen.append(at)
    return Volume([replace(one, is_scored=at in chosen) for at, one in enumerate(volume.slices)])


def _scored_as(like: Volume, volume: Volume) -> Volume:
    pairs = zip(like.slices, volume.slices, strict=True)
    return Volume([replace(one, is_scored=other.is_scored) for other, one in pairs])


def _sites(volume: Volume, item: Item, modality: str, diameter: float, seed: int) -> list[Site]:
    """Choose the places for lesions in all slices that are scored."""
    found = []
    for at in volume.scored:
        one = volume.slices[at]
        own = zlib.crc32(f"{seed}/{item['name']}/{one.number}".encode("utf-8", "surrogateescape"))
        label = one.label[0].cpu().numpy()
        places = find_sites(label, modality, volume.spacing[:2], diameter, own)
        found += [Site(one.number, x, y) for x, y in places]
    return found


def _loading(group: Group) -> tuple[Any, Any]:
    """Return what reads an item, and what degrades it then; pairs are left as they are."""
    if group.source.load is group.models[0].degrading:
        load, degrade = group.models[0].degrading.transforms
        return load, degrade
    return group.source.load, lambda item: item


def _restored(methods: Mapping[str, Method], volume: Volume) -> dict[str, Slices]:
    """Return what each method makes of the slices that are scored."""
    found: dict[str, Slices] = {}
    with located(volume.slices[0].case, whole=True):
        for name, method in methods.items():
            restored = method(volume)
            found[name] = {at: restored(at) for at in volume.scored}
    return found


def _count_inventions(found: _Found, modality: str, volume: Volume, restored: Mapping[str, Slices]) -> None:
    for at in volume.scored:
        reference = Image(volume.slices[at].label[0].cpu().numpy(), modality, volume.spacing)
        for name, images in restored.items():
            counts = count_inventions(reference, reference.like(images[at][0].cpu().numpy()))
            if counts is not None:
                found.inventions.setdefault(name, []).append(counts)


def _about(group: Group, found: _Found) -> dict[str, Any]:
    bundles = {
        model.name: {
            "version": model.candidate.bundle.metadata["version"],
            "weights": model.restorer.weights_sha256,
            "settings": {name: model.settings[name] for name in sorted(model.settings)},
        }
        for model in group.models
    }
    return {
        "slices": found.slices,
        "patients": len({pair.patient for pairs in found.pairs.values() for pair in pairs}),
        "bundles": bundles,
        "tuned by": group.origin,
        "classical baselines": {name: one.described() for name, one in group.baselines.items()},
    }
