"""Train variants of a bundle's network or loss for the same steps, on the same patches in the same order.

What ``ablation.py`` and ``mlff_ablation.py`` share. A variant is a name and overrides of the bundle's ``train.json``
and ``train_cpu.json``.
"""

import argparse
import csv
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.data import set_track_meta
from monai.utils import set_determinism

from medrestore_monai.bundles import find_bundle
from medrestore_monai.bundles.settings import path_text
from medrestore_monai.files import atomic_file

Overrides = Mapping[str, Any]
SETTINGS = ("bundle", "steps", "epochs", "patch", "batch")
RESULTS = ("variant", "seed", "parameters", "psnr", "ssim", "seconds_per_step")


def read_rows(path: Path, settings: dict[str, str]) -> list[dict[str, str]]:
    """Return the rows of an earlier run.

    Raises:
        ValueError: they are of other settings, or the file is something else.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if reader.fieldnames != [*RESULTS, *SETTINGS] or any(None in row or None in row.values() for row in rows):
        raise ValueError(f"{path} is no table of this script.")
    for row in rows:
        other = [f"{name} {row[name]}" for name in SETTINGS if row[name] != settings[name]]
        if other:
            raise ValueError(f"{path} holds another run, with {', '.join(other)}; name another file.")
    return rows


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write all rows: a kill leaves the old table or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*RESULTS, *SETTINGS])
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(path, single_writer=True) as file:
        file.write(text.getvalue().encode())


class Timer:
    """CPU seconds of a trainer's steps, without the loading of data."""

    def __init__(self, trainer: Engine) -> None:
        self.seconds: list[float] = []
        self.begin = 0.0
        trainer.add_event_handler(Events.ITERATION_STARTED, self._start)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._stop)

    def _start(self, _: Engine) -> None:
        self.begin = time.process_time()

    def _stop(self, _: Engine) -> None:
        self.seconds.append(time.process_time() - self.begin)


class Comparison:
    """What the variants share: the recipe, and the images, which are read once.

    The degradations of the validation part are those of seed 0, whatever the seed of a training.

    Args:
        options: of the command line.
        folder: for what training writes.
    """

    def __init__(self, options: argparse.Namespace, folder: str) -> None:
        self.options, self.folder = options, folder
        bundle = find_bundle(options.bundle)
        self.files = [str(bundle.config(name)) for name in ("train", "train_cpu")]
        parser = self.recipe("shared", 0, {})
        set_track_meta(True)  # a training turns it off
        set_determinism(0)
        self.datasets = {part: parser.get_parsed_content(f"{part}#dataset") for part in ("train", "validate")}

    def recipe(self, variant: str, seed: int, overrides: Overrides) -> ConfigParser:
        """Return the bundle's training with these overrides."""
        options = self.options
        parser = ConfigParser()
        parser.read_config(self.files)
        parser.update(
            {
                "dataset_dir": path_text(options.data),
                "output_dir": path_text(os.path.join(self.folder, f"{variant.replace('/', '_')}_{seed}")),
                "seed": seed,
                "patch_size": [options.patch, options.patch],
                "batch_size": options.batch,
                "num_workers": 0,
                "max_epochs": options.epochs,
                "epoch_length": options.steps // options.epochs,
                "val_interval": options.epochs,
                **overrides,
            }
        )
        return parser

    def train(self, variant: str, seed: int, overrides: Overrides) -> dict[str, str]:
        """Train one variant, and return its row."""
        parser = self.recipe(variant, seed, overrides)
        for part, dataset in self.datasets.items():
            parser[f"{part}#dataset"] = dataset

        # networks draw more or fewer numbers when they are built; what follows is to be the same for all
        def begin() -> None:
            set_determinism(seed)
            self.datasets["train"].transform.set_random_state(seed)

        parser["begin"] = begin
        parser["run"] = [*parser["run"][:-1], "$@begin()", parser["run"][-1]]
        set_track_meta(True)
        set_determinism(seed)
        timer = Timer(parser.get_parsed_content("train#trainer"))
        parser.get_parsed_content("run")
        scores = parser.get_parsed_content("validate#evaluator").state.metrics
        network = parser.get_parsed_content("network")
        merged = network.merged() if hasattr(network, "merged") else network
        return {
            "variant": variant,
            "seed": str(seed),
            "parameters": str(sum(parameter.numel() for parameter in merged.parameters())),
            "psnr": f"{scores['PSNR']:.3f}",
            "ssim": f"{scores['SSIM']:.4f}",
            "seconds_per_step": f"{statistics.median(timer.seconds):.3f}",
        }


def add_options(parser: argparse.ArgumentParser, bundle: str, steps: int, epochs: int, batch: int) -> None:
    """Add the options that all comparisons have, with these defaults."""
    parser.add_argument("data", type=Path, help="what the bundle is trained on")
    parser.add_argument("-o", "--output", type=Path, required=True, help="CSV file; continued where it exists")
    parser.add_argument("--bundle", default=bundle)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument(
        "--epochs", type=int, default=epochs, help="parts of the run, after each of which the rate changes"
    )
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="each variant is trained once from each")


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the options, or leave with what is wrong with them."""
    options = parser.parse_args()
    if min(options.steps, options.epochs, options.patch, options.batch) < 1 or options.steps % options.epochs:
        parser.error("steps, epochs, patch and batch must be positive, and steps a multiple of epochs.")
    if not options.data.is_dir():
        parser.error(f"there is no folder {options.data}.")
    return options


def compare(options: argparse.Namespace, variants: Mapping[str, Overrides]) -> list[dict[str, str]]:
    """Train what the file does not have yet, and return all its rows; each is written as soon as it is known."""
    settings = {name: str(getattr(options, name)) for name in SETTINGS}
    try:
        rows = read_rows(options.output, settings)
    except ValueError as error:
        sys.exit(f"Error: {error}")
    done = {(row["variant"], row["seed"]) for row in rows}
    missing = [(name, seed) for seed in options.seeds for name in variants if (name, str(seed)) not in done]
    if missing:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or torch.get_num_threads())
        with tempfile.TemporaryDirectory() as folder:
            comparison = Comparison(options, folder)
            for name, seed in missing:
                rows.append({**comparison.train(name, seed, variants[name]), **settings})
                write_rows(options.output, rows)
    return rows
