"""Score bundles, classical baselines and the input side by side, and write the report."""

import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from medrestore_monai import __version__
from medrestore_monai.classical import Classical
from medrestore_monai.evaluate.cases import Source, known_psf, open_source, slices_of
from medrestore_monai.evaluate.models import Model, open_model, task_of
from medrestore_monai.evaluate.request import Request, choose_baselines
from medrestore_monai.inferers import SliceWiseInferer
from medrestore_monai.intensity import INTENSITY_RANGES, FromUnitRanged
from medrestore_monai.layouts import Item
from medrestore_monai.protocols import PROTOCOLS, Protocol
from medrestore_monai.report import (
    SliceScore,
    SummaryRow,
    draw_panels,
    findings,
    new_folder,
    summarize,
    write_tables,
    write_times,
)
from medrestore_monai.unwrap import unwrapped

Restoration = Callable[[Mapping[Any, Any]], Tensor]


@dataclass
class _Results:
    """What comes together while images are restored."""

    scores: list[SliceScore] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    worst: dict[tuple[str, str], list[tuple[float, "_Shown"]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    constant: int = 0


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
    groups = request.groups()
    about: dict[str, Any] = _about(request, protocol)
    for modality, group in groups.items():
        data = request.data / modality if len(groups) > 1 else request.data
        offset = request.hu_offset if modality == "CT" else None
        wishes = {
            "seed": request.seed,
            "part": request.part,
            "hu_offset": offset,
            **protocol.settings.get(modality, {}),
        }
        models = [open_model(one, modality, data, request.device, request.settings, wishes) for one in group]
        chosen = choose_baselines(request.baselines, request.tuned, partial(task_of, group[0].bundle, modality))
        source = open_source(models[0], data, request.layout, request.part, request.allow_gaps, request.limit, offset)
        _run(request, source, models, chosen, results, progress)
        _describe(about, models, chosen, source)
    if not results.scores:
        raise ValueError(f"{request.data} holds no slice that could be scored.")
    rows = summarize(results.scores, request.against, request.seed)
    plain = rows if request.against == "input" else summarize(results.scores, "input", request.seed)
    notes = findings(plain, list(about["bundles"])) + results.notes
    if results.constant:
        notes.append(f"{results.constant} slices with a constant reference were left out.")
    _write(request, about, rows, notes, results)
    return rows, notes


def _run(
    request: Request,
    source: Source,
    models: Sequence[Model],
    baselines: Mapping[str, Classical],
    results: _Results,
    progress: bool,
) -> None:
    """Restore and score every image of one modality."""
    methods: dict[str, Restoration] = {"input": lambda case: case["image"].as_subclass(Tensor)}
    methods |= {name: partial(_classical, models[0], method) for name, method in baselines.items()}
    methods |= {model.name: model.restore for model in models}
    shown = track(source.items, "Evaluating", console=Console(stderr=True), disable=not progress)
    for item in shown:
        try:
            _one(request, source, item, models, methods, results)
        except ValueError as error:
            if not request.skip_bad:
                raise
            text = " ".join(str(error).split()).replace(str(request.data), request.data.name)
            results.notes.append(f"left out: {text}")


def _one(
    request: Request,
    source: Source,
    item: Item,
    models: Sequence[Model],
    methods: Mapping[str, Restoration],
    results: _Results,
) -> None:
    """Restore one image with every method and score its slices."""
    protocol = PROTOCOLS[request.protocol]
    case = source(item)
    where = f"{item['name']}, slice {item['slice']}" if item.get("slice") is not None else item["name"]
    try:
        scaled = models[0].scaling(dict(case))
        lower, upper = (float(end) for end in scaled["image"].meta["intensity_range"])
        window = protocol.window(source.modality, (lower, upper))
        restored, seconds = {}, {}
        for name, method in methods.items():
            start = time.perf_counter()
            restored[name] = list(slices_of(method(case)))
            seconds[name] = time.perf_counter() - start
        scores, shown = [], []
        for number, label in enumerate(slices_of(case["label"])):
            if protocol.leaves_out(label, window):
                results.constant += 1
                continue
            at = (source.modality, item["patient"], item["name"], int(item.get("slice") or 0) + number)
            images = {name: slices[number] for name, slices in restored.items()}
            for name, image in images.items():
                regions = protocol.score(image, label, source.modality, window)
                scores += [SliceScore(*at, name, region, values) for region, values in regions.items()]
            shown.append({"input": images["input"], **images, "reference": label})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    results.scores += scores
    for name, duration in seconds.items():
        count = len(restored[name])
        results.seconds.setdefault(name, []).extend([duration / count] * count)
    for model in models:
        _keep_worst(results, model, request.worst, scores, shown, window)


def _keep_worst(
    results: _Results,
    model: Model,
    count: int,
    scores: Sequence[SliceScore],
    shown: Sequence[dict[str, Tensor]],
    window: tuple[float, float],
) -> None:
    """Keep the slices with the lowest PSNR of one model."""
    name = model.name
    kept = results.worst.setdefault((name, model.modality), [])
    own = [score for score in scores if score.method == name and score.region == "whole slice"]
    for score, images in zip(own, shown, strict=True):
        panels = {"input": images["input"], name: images[name], "reference": images["reference"]}
        kept.append((score.values["psnr"], _Shown(score, panels, window)))
    kept.sort(key=lambda entry: entry[0])
    del kept[count:]


def _classical(model: Model, method: Classical, case: Mapping[Any, Any]) -> Tensor:
    """Restore as :meth:`Model.restore` does, with a classical method on what that model sees."""
    with unwrapped():
        scaled = model.scaling(dict(case))
        infer = SliceWiseInferer(clip_output=True, add_clipped=model.modality != "CT")
        pred = infer(scaled["image"][None], method, psf=known_psf(case))[0]
        restored: Tensor = FromUnitRanged("pred", like="image")({**scaled, "pred": pred})["pred"]
    return restored.as_subclass(Tensor)


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
        "classical baselines": {},
    }


def _describe(
    about: dict[str, Any], models: Sequence[Model], baselines: Mapping[str, Classical], source: Source
) -> None:
    about["slices listed"][source.modality] = len(source.items)
    about["units"][source.modality] = INTENSITY_RANGES[source.modality].unit
    for model in models:
        bundle, overlay = model.contestant.bundle, model.contestant.overlay
        about["bundles"][model.name] = {
            **({"recipe": bundle.name} if model.name != bundle.name else {}),
            **({"overlay": overlay.name} if overlay is not None else {}),
            "version": bundle.metadata["version"],
            "weights": model.weights_sha256,
            "settings": {name: model.settings[name] for name in sorted(model.settings)},
        }
    about["classical baselines"][source.modality] = {name: method.parameters for name, method in baselines.items()}


def _write(
    request: Request, about: dict[str, Any], rows: Sequence[SummaryRow], notes: Sequence[str], results: _Results
) -> None:
    environment = {
        "device": torch.cuda.get_device_name() if _on_gpu(request.device) else platform.machine(),
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


def _on_gpu(device: str) -> bool:
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
