"""Score bundles, classical baselines and the input side by side, and write the report."""

import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from medrestore_monai import __version__
from medrestore_monai.audit.interval import Calibration
from medrestore_monai.classical import Parameters
from medrestore_monai.evaluate.cases import Source
from medrestore_monai.evaluate.coverage import calibration_of, coverage_of_slices
from medrestore_monai.evaluate.groups import open_groups
from medrestore_monai.evaluate.models import Model
from medrestore_monai.evaluate.physics import slice_physics
from medrestore_monai.evaluate.request import Request
from medrestore_monai.evaluate.restorations import Method, Prepared, methods_of, need_neighbors
from medrestore_monai.evaluate.volumes import Slice, Volume, load_volume, located
from medrestore_monai.intensity import INTENSITY_RANGES
from medrestore_monai.report import (
    SliceScore,
    SummaryRow,
    draw_panels,
    findings,
    infinite,
    new_folder,
    summarize,
    write_tables,
    write_times,
)
from medrestore_monai.report.protocols import PROTOCOLS, Protocol
from medrestore_monai.texts import one_line


@dataclass
class _Results:
    """What comes together while images are restored."""

    scores: list[SliceScore] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    worst: dict[tuple[str, str], list[tuple[float, "_Shown"]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    levels: dict[str, list[float]] = field(default_factory=dict)
    constant: int = 0


_Done = dict[int, tuple[dict[str, Tensor], list[SliceScore]]]
"""By place in a volume, the results of a slice that coverage is measured of, and all its scores."""


@dataclass(frozen=True)
class _Shown:
    """A slice to draw."""

    score: SliceScore
    images: dict[str, Tensor]
    window: tuple[float, float]


def evaluate(request: Request, progress: bool = False) -> tuple[list[SummaryRow], list[str]]:
    """Evaluate, and write the report: tables, the scores of every slice, times, and the worst slices as pictures.

    Args:
        request: what to evaluate.
        progress: show a progress bar on the standard error stream.

    Returns:
        The rows of the table, and notes on them.

    Raises:
        ValueError: as :meth:`Request.check`, or an image cannot be used; nothing was written.
        OSError: the report cannot be written.
    """
    request.check()
    protocol, results = PROTOCOLS[request.protocol], _Results()
    about: dict[str, Any] = _about(request, protocol)
    for group in open_groups(request, protocol.settings):
        source, models, chosen = group.source, group.models, group.baselines
        _run(request, source, models, chosen, results, progress)
        _describe(about, models, chosen, source)
        about["tuned by"][group.modality] = group.origin
        if levels := results.levels.get(group.modality):
            about["noise levels"][group.modality] = [float(f"{end:.3g}") for end in (min(levels), max(levels))]
    if not results.scores:
        raise ValueError(f"{request.data} holds no slice that could be scored.")
    rows = summarize(results.scores, request.against, request.seed)
    plain = rows if request.against == "input" else summarize(results.scores, "input", request.seed)
    notes = findings(plain, list(about["bundles"])) + results.notes + infinite(results.scores)
    if results.constant:
        notes.append(f"{results.constant} slices with a constant reference were left out.")
    _write(request, about, rows, notes, results)
    return rows, notes


def _run(
    request: Request,
    source: Source,
    models: Sequence[Model],
    baselines: Mapping[str, Parameters],
    results: _Results,
    progress: bool,
) -> None:
    """Restore and score every image of one modality."""
    window_of = partial(_window_of, PROTOCOLS[request.protocol], source.modality)
    methods = methods_of(models, baselines, window_of if request.oracle else None)
    needs_all = need_neighbors(models, baselines)
    calibrations: dict[str, Calibration] = {}
    for model in models if PROTOCOLS[request.protocol].physics else ():
        found, said = calibration_of(model, request.settings)
        results.notes += [said] if said else []
        calibrations |= {model.name: found} if found is not None else {}

    def leave_out(error: ValueError) -> None:
        if not request.skip_bad:
            raise error
        text = one_line(str(error)).replace(str(request.data), request.data.name)
        results.notes.append(f"left out: {text}")

    with Progress(console=Console(stderr=True), disable=not progress) as shown:
        task = shown.add_task("Evaluating", total=len(source.items))
        for listed in source.images():
            volume = load_volume(source, listed, models[0].scaling, needs_all, leave_out)
            prepared, seconds = _prepare(methods, volume, leave_out)
            done: _Done = {}
            for at in volume.scored if prepared else ():
                try:
                    with located(volume.slices[at].case):
                        scored = _one(request, source.modality, volume, at, models, prepared, seconds, results)
                    if scored and calibrations:
                        done[at] = {name: scored[0][name] for name in calibrations}, scored[1]
                except ValueError as error:
                    leave_out(error)
                shown.advance(task)
            try:
                for name, calibration in calibrations.items():
                    _cover(volume, done, name, source.modality, calibration)
            except ValueError as error:
                leave_out(error)
            if needs_all and volume.scored:
                results.levels.setdefault(source.modality, []).append(volume.level)


def _window_of(protocol: Protocol, modality: str, one: Slice) -> tuple[float, float]:
    return protocol.window(modality, one.range)


def _prepare(
    methods: Mapping[str, Method], volume: Volume, leave_out: Callable[[ValueError], None]
) -> tuple[dict[str, Prepared], dict[str, float]]:
    """Do what methods do with a volume as a whole; also return the seconds for each slice of it."""
    prepared, seconds = {}, {}
    try:
        for name, method in methods.items() if volume.scored else ():
            start = time.perf_counter()
            with located(volume.slices[0].case, whole=True):
                prepared[name] = method(volume)
            seconds[name] = (time.perf_counter() - start) / len(volume.slices)
    except ValueError as error:
        leave_out(error)
        return {}, {}
    return prepared, seconds


def _one(
    request: Request,
    modality: str,
    volume: Volume,
    at: int,
    models: Sequence[Model],
    prepared: Mapping[str, Prepared],
    shared: Mapping[str, float],
    results: _Results,
) -> tuple[dict[str, Tensor], list[SliceScore]] | None:
    """Restore one slice with every method and score it; return both, or ``None`` where there is nothing to score."""
    protocol, one = PROTOCOLS[request.protocol], volume.slices[at]
    window, label = protocol.window(modality, one.range), one.label
    if protocol.leaves_out(label, window):
        results.constant += 1
        return None
    place = (modality, one.case["patient"], one.case["name"], one.number)
    images, seconds, scores = {}, {}, []
    for name, restored in prepared.items():
        start = time.perf_counter()
        images[name] = restored(at)
        seconds[name] = shared[name] + time.perf_counter() - start
        regions = protocol.score(images[name], label, modality, window)
        if protocol.physics:
            regions["whole slice"] |= slice_physics(images[name], label, modality, volume.spacing)
        scores += [SliceScore(*place, name, region, values) for region, values in regions.items()]
    results.scores += scores
    for name, duration in seconds.items():
        results.seconds.setdefault(name, []).append(duration)
    for model in models:
        _keep_worst(results, model, request.worst, scores, {**images, "reference": label}, window)
    return images, scores


def _cover(volume: Volume, done: _Done, name: str, modality: str, calibration: Calibration) -> None:
    """Give the scores of one model the coverage of its intervals."""
    if not done:
        return
    restored = [images[name] for images, _ in done.values()]
    found = coverage_of_slices(volume, list(done), restored, modality, calibration)
    for (_, scores), coverage in zip(done.values(), found, strict=True):
        own = next(one for one in scores if (one.method, one.region) == (name, "whole slice"))
        own.values.update({} if math.isnan(coverage) else {"coverage": coverage})


def _keep_worst(
    results: _Results,
    model: Model,
    count: int,
    scores: Sequence[SliceScore],
    images: Mapping[str, Tensor],
    window: tuple[float, float],
) -> None:
    """Keep the slices with the lowest PSNR of one model."""
    name = model.name
    kept = results.worst.setdefault((name, model.modality), [])
    own = [score for score in scores if score.method == name and score.region == "whole slice"]
    for score in own:
        panels = {"input": images["input"], name: images[name], "reference": images["reference"]}
        kept.append((score.values["psnr"], _Shown(score, panels, window)))
    kept.sort(key=lambda entry: entry[0])
    del kept[count:]


def _about(request: Request, protocol: Protocol) -> dict[str, Any]:
    """Say what is evaluated and how, without paths or times."""
    return {
        "medrestore-monai": __version__,
        "protocol": f"{protocol.name}. {protocol.description}",
        "data": {"folder": request.data.name, "layout": request.layout, "part": request.part},
        "slices listed": {},
        "seed": request.seed,
        "p-values": f"two-sided paired t-test against {request.against}",
        "units": {},
        "bundles": {},
        "tuned by": {},
        "noise levels": {},
        "classical baselines": {},
    }


def _describe(
    about: dict[str, Any], models: Sequence[Model], baselines: Mapping[str, Parameters], source: Source
) -> None:
    about["slices listed"][source.modality] = len(source.items)
    about["units"][source.modality] = INTENSITY_RANGES[source.modality].unit
    for model in models:
        bundle, overlay = model.candidate.bundle, model.candidate.overlay
        about["bundles"][model.name] = {
            **({"recipe": bundle.name} if model.name != bundle.name else {}),
            **({"overlay": overlay.name} if overlay is not None else {}),
            "version": bundle.metadata["version"],
            "weights": model.restorer.weights_sha256,
            "settings": {name: model.settings[name] for name in sorted(model.settings)},
        }
    about["classical baselines"][source.modality] = {name: one.described() for name, one in baselines.items()}


def _write(
    request: Request, about: dict[str, Any], rows: Sequence[SummaryRow], notes: Sequence[str], results: _Results
) -> None:
    environment = {
        "device": _device_name(request.device),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
    }
    with new_folder(request.output, request.overwrite) as folder:
        (folder / "worst").mkdir()
        listed = []
        modalities = Counter(name for name, _ in results.worst)
        for (name, modality), entries in results.worst.items():
            stem = name if modalities[name] == 1 else f"{name}_{modality}"
            for number, (_, shown) in enumerate(entries, start=1):
                picture = f"worst/{stem}_{number}.png"
                one = shown.score
                unit = about["units"][one.modality]
                draw_panels(folder / picture, shown.images, "reference", name, shown.window, unit)
                listed.append(f"worst of {name}, number {number}: {one.volume}, slice {one.slice}, {picture}")
        write_tables(folder, about, rows, results.scores, [*notes, *listed])
        write_times(folder / "times.csv", results.seconds, environment)


def _device_name(device: str) -> str:
    if device == "mps":
        return f"GPU of {platform.machine()}"
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return torch.cuda.get_device_name() if on_gpu else platform.machine()
