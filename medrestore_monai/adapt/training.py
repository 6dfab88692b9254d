"""Fine-tune by MONAI's bundle engine, and choose how far to go: stop and step size by the slices that tune."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medrestore_monai.adapt.probed import SCORE
from medrestore_monai.adapt.request import OVERLAYS, Request
from medrestore_monai.bundles import foreign_values_explained, read_config
from medrestore_monai.bundles.settings import path_text
from medrestore_monai.data import Division
from medrestore_monai.engines import write_atomically
from medrestore_monai.engines.errors import unwrapped
from medrestore_monai.engines.fine_tuning import moved
from medrestore_monai.files import atomic_file

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

TRAINING_SHARE = 0.75  # of the minutes; the rest is for step size and verdict
ESTIMATED_SHARE = 0.6  # without targets, where noise is measured before and probes are restored after
FEW_SLICES = 10  # below, gains alone are trained
STEP_SIZES = (0.0, 0.25, 0.5, 0.75, 1.0)
WEIGHTS, ENDED, DONE = "adapted.pt", "ended.json", "trained.json"
_WITHOUT_END = 100_000  # epochs, of a training that is planned by its time


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Attributes:
        weights: the file.
        trained: ``all`` or ``gains``.
        steps: that were made.
        planned: that were planned; a run with as many steps and the same seed begins with the same weights.
        best_step: whose moving average is the best on the slices that tune; 0 if none was validated.
        step_size: how far from the first weights to these the result lies.
        curve: step, learning rate, loss and score of each epoch.
        tuning: score on the slices that tune, by step size; 0 are the weights that ship. It is PSNR in dB; without
            targets minus the estimated error in HU^2 or SUV^2.
    """

    weights: Path
    trained: str
    steps: int
    planned: int
    best_step: int
    step_size: float
    curve: Sequence[Mapping[str, float]]
    tuning: Mapping[str, float]


def train(request: Request, division: Division, place: Path, values: Mapping[str, Any], progress: bool) -> Trained:
    """Train in a folder, or go on with a training that was killed there.

    Args:
        request: what is asked for.
        division: of the images.
        place: for the state of the training.
        values: of ``adapt.json``, such as ranges that were measured.
        progress: show bars on the standard error stream.

    Raises:
        ValueError: an image or a setting cannot be used.
    """
    noted = place / DONE
    if noted.is_file():
        content = json.loads(noted.read_text(encoding="utf-8"))
        return Trained(**{**content, "weights": place / WEIGHTS})
    which = "gains" if division.slices("train") < FEW_SLICES or request.targets == "none" else "all"
    chosen = {"parameters": which, **_values(request, place, progress), **values, **(request.settings or {})}
    with _random_state_kept(), foreign_values_explained(request.opened.root), unwrapped():
        steps, planned, length = _run(request, chosen, place)
        curve = _curve(place / "history.csv", length)
        tuning, step_size = _tune(request, chosen, place)
    score = score_name(request)
    best = max((row for row in curve if score in row), key=lambda row: row[score], default=None)
    best_step = 0 if best is None else int(best["step"])
    done = Trained(place / WEIGHTS, str(chosen["parameters"]), steps, planned, best_step, step_size, curve, tuning)
    content = {**asdict(done), "weights": ""}
    with atomic_file(noted, single_writer=True) as file:
        file.write(json.dumps(content).encode())
    return done


def score_name(request: Request) -> str:
    """Return the metric of the validation by which a training stops and chooses; larger is better."""
    return SCORE if request.targets == "none" else "PSNR"


def _run(request: Request, values: Mapping[str, Any], place: Path) -> tuple[int, int, int]:
    """Train to the end; return the steps that were made and planned, and those of an epoch."""
    ended = place / ENDED
    if ended.is_file():
        steps, planned, length = json.loads(ended.read_text(encoding="utf-8"))
        return int(steps), int(planned), int(length)
    parser = _parser(request, values)
    found = _of_state(place / "state.pt", int(parser.get_parsed_content("max_epochs")))
    if found is None:
        for part in ("initialize", "run"):
            parser.get_parsed_content(part)
        state = parser.get_parsed_content("train#trainer").state
        found = state.iteration, state.max_epochs * state.epoch_length, state.epoch_length
    with atomic_file(ended, single_writer=True) as file:
        file.write(json.dumps(found).encode())
    return found


def _of_state(path: Path, max_epochs: int) -> tuple[int, int, int] | None:
    """Return the same of a training that was killed after its last epoch; ``None`` of one that has to go on."""
    if not path.is_file():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    epoch, length = int(state["trainer"]["epoch"]), int(state["trainer"]["epoch_length"])
    planned = state["time_limit"]["planned"] or max_epochs * length
    return (epoch * length, planned, length) if epoch * length >= planned else None


def _values(request: Request, place: Path, progress: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "bundle_root": path_text(request.opened.root),
        "first_bundle": path_text(request.opened.root),
        "dataset_dir": path_text(request.data.absolute()),
        "output_dir": path_text(place.absolute()),
        "targets": request.targets,
        "seed": request.seed,
        "allow_gaps": request.allow_gaps,
        "progress": progress,
    }
    if request.hu_offset is not None:
        values["hu_offset"] = request.hu_offset
    if request.device != "auto":
        values["device"] = torch.device(request.device)
    if len(request.opened.evaluated) > 1:  # its train.json has a data set of each modality
        name = request.of_modality.lower()
        values |= {"train#datalist": f"@{name}#datalist", "train#dataset": f"@{name}#train"}
        values["validate#dataset"] = f"@{name}#validation"
    if request.steps is not None:
        values["steps"] = request.steps
    elif request.minutes is not None:
        share = ESTIMATED_SHARE if request.targets == "none" else TRAINING_SHARE
        values |= {"minutes": request.minutes * share, "max_epochs": _WITHOUT_END}
    return values


def _parser(request: Request, values: Mapping[str, Any]) -> ConfigParser:
    names = ["train", "adapt", *([OVERLAYS[request.targets]] if request.targets in OVERLAYS else [])]
    parser = read_config(*(request.opened.config(name) for name in names))
    config = parser.config
    if request.steps is not None:
        values = {**values, "epoch_length": min(int(config["epoch_length"]), request.steps), **(request.settings or {})}
    if request.minutes is not None and request.steps is None:
        # the plan sets it; the schedule must be long enough to begin with
        values = {**values, "scheduler#t_total": int(config["steps"])}
    parser.update(dict(values))
    return parser


def _tune(request: Request, values: Mapping[str, Any], place: Path) -> tuple[dict[str, float], float]:
    """Score step sizes on the slices that tune, and save the best weights."""
    parser = _parser(request, {**values, "progress": False})
    evaluator = parser.get_parsed_content("validate#evaluator")
    network = evaluator.network
    first = torch.load(request.opened.weights, map_location="cpu", weights_only=True)
    best = place / "model.pt"
    last = torch.load(best, map_location="cpu", weights_only=True) if best.is_file() else first
    scores: dict[str, float] = {}
    for size in STEP_SIZES if best.is_file() else (0.0,):
        network.load_state_dict(moved(first, last, size))
        evaluator.run()
        scores[f"{size:g}"] = float(evaluator.state.metrics[score_name(request)])
    chosen = max(STEP_SIZES, key=lambda size: (scores.get(f"{size:g}", -np.inf), -size))
    write_atomically(moved(first, last, chosen), place / WEIGHTS)
    return scores, chosen


def _curve(path: Path, epoch_length: int) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    named = ("learning_rate", "loss", "PSNR", "SSIM", SCORE)
    return [
        {"step": int(row["epoch"]) * epoch_length, **{name: float(row[name]) for name in named if row.get(name)}}
        for row in rows
    ]


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Leave the random states and switches of the caller as they were; a training sets them."""
    states = random.getstate(), np.random.get_state()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
