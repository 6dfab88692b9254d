"""Train the nine networks of Restore-RWKV's table 5 alike and briefly, and compare them; prints a Markdown table.

    python scripts/experiments/ablation.py DATA -o ablation.csv                 # MRI super-resolution, 300 steps each
    python scripts/experiments/ablation.py DATA -o ablation.csv --steps 600 --only re-wkv/omni uni-wkv/uni
    python scripts/experiments/ablation.py DATA -o ablation.csv --bundle ct_denoise_restore_rwkv
    python scripts/experiments/ablation.py DATA -o scans.csv --only bi-wkv/omni bi-wkv-columns/omni sum/omni re-wkv/omni

Attention is Uni-WKV, Bi-WKV or Re-WKV; the token shift Uni-, Quad- or Omni-Shift. The last command compares scans of
tables 6 and 7: along rows, along columns, both summed, and Re-WKV; ``alternating/omni`` changes the direction from
block to block. Each is an override of ``network_def`` in the bundle's ``train.json`` and ``train_cpu.json``; all see
the same patches in the same order and start from one seed. PSNR and SSIM are those of the bundle's validation part
after the last step. A finished network is a row in the file at once: started again, the command goes on with those that
are missing. Times are CPU seconds of forward, backward and optimizer, the median of all steps.
"""

import argparse
import csv
import io
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
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
from medrestore_monai.networks.rwkv_blocks import ATTENTIONS, SCANS
from medrestore_monai.networks.token_shifts import TOKEN_SHIFTS

VARIANTS = tuple(itertools.product(reversed(ATTENTIONS), reversed(tuple(TOKEN_SHIFTS))))
OF_TABLES_6_AND_7 = tuple((scan, "omni") for scan in SCANS)
SETTINGS = ("bundle", "steps", "epochs", "patch", "batch", "seed")
RESULTS = ("attention", "token_shift", "parameters", "psnr", "ssim", "seconds_per_step")


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
    """What the networks share: the recipe, and the images, which are read once.

    Args:
        options: of the command line.
        folder: for what training writes.
    """

    def __init__(self, options: argparse.Namespace, folder: str) -> None:
        self.options, self.folder = options, folder
        bundle = find_bundle(options.bundle)
        self.files = [str(bundle.config(name)) for name in ("train", "train_cpu")]
        parser = self.recipe("re-wkv", "omni")
        set_determinism(options.seed)
        self.datasets = {part: parser.get_parsed_content(f"{part}#dataset") for part in ("train", "validate")}

    def recipe(self, attention: str, token_shift: str) -> ConfigParser:
        """Return the bundle's training with these overrides."""
        options = self.options
        parser = ConfigParser()
        parser.read_config(self.files)
        parser.update(
            {
                "dataset_dir": path_text(options.data),
                "output_dir": path_text(os.path.join(self.folder, f"{attention}_{token_shift}")),
                "seed": options.seed,
                "patch_size": [options.patch, options.patch],
                "batch_size": options.batch,
                "num_workers": 0,
                "max_epochs": options.epochs,
                "epoch_length": options.steps // options.epochs,
                "val_interval": options.epochs,
                "network_def#attention": attention,
                "network_def#token_shift": token_shift,
            }
        )
        return parser

    def train(self, attention: str, token_shift: str) -> dict[str, str]:
        """Train one network, and return its row."""
        parser = self.recipe(attention, token_shift)
        for part, dataset in self.datasets.items():
            parser[f"{part}#dataset"] = dataset
        # networks draw more or fewer numbers when they are built; what follows is to be the same for all
        parser["begin"] = self._begin
        parser["run"] = [*parser["run"][:-1], "$@begin()", parser["run"][-1]]
        set_track_meta(True)
        set_determinism(self.options.seed)
        timer = Timer(parser.get_parsed_content("train#trainer"))
        parser.get_parsed_content("run")
        scores = parser.get_parsed_content("validate#evaluator").state.metrics
        merged = parser.get_parsed_content("network").merged()
        row: dict[str, Any] = {
            "attention": attention,
            "token_shift": token_shift,
            "parameters": sum(parameter.numel() for parameter in merged.parameters()),
            "psnr": f"{scores['PSNR']:.3f}",
            "ssim": f"{scores['SSIM']:.4f}",
            "seconds_per_step": f"{statistics.median(timer.seconds):.3f}",
        }
        return {name: str(value) for name, value in row.items()}

    def _begin(self) -> None:
        set_determinism(self.options.seed)
        self.datasets["train"].transform.set_random_state(self.options.seed)


def print_table(rows: Sequence[dict[str, str]]) -> None:
    """Print the rows, the original RWKV first."""
    order = {f"{attention}/{shift}": number for number, (attention, shift) in enumerate(VARIANTS + OF_TABLES_6_AND_7)}
    print("| attention | token shift | parameters | PSNR (dB) | SSIM | s/step |\n|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: order[f"{row['attention']}/{row['token_shift']}"]):
        print(f"| {' | '.join(row[name] for name in RESULTS)} |")


def parse() -> argparse.Namespace:
    names = [f"{attention}/{shift}" for attention, shift in VARIANTS]
    more = [f"{attention}/{shift}" for attention, shift in OF_TABLES_6_AND_7]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what the bundle is trained on")
    parser.add_argument("-o", "--output", type=Path, required=True, help="CSV file; continued where it exists")
    parser.add_argument("--bundle", default="mri_superresolution_restore_rwkv")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=4, help="parts of the run, after each of which the rate falls")
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[*names, *more], default=names, metavar="ATTENTION/SHIFT")
    options = parser.parse_args()
    if min(options.steps, options.epochs, options.patch, options.batch) < 1 or options.steps % options.epochs:
        parser.error("steps, epochs, patch and batch must be positive, and steps a multiple of epochs.")
    if not options.data.is_dir():
        parser.error(f"there is no folder {options.data}.")
    return options


def main() -> None:
    options = parse()
    settings = {name: str(getattr(options, name)) for name in SETTINGS}
    try:
        rows = read_rows(options.output, settings)
    except ValueError as error:
        sys.exit(f"Error: {error}")
    done = {f"{row['attention']}/{row['token_shift']}" for row in rows}
    missing = [name for name in options.only if name not in done]
    if missing:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or torch.get_num_threads())
        with tempfile.TemporaryDirectory() as folder:
            comparison = Comparison(options, folder)
            for name in missing:
                attention, shift = name.split("/")
                rows.append({**comparison.train(attention, shift), **settings})
                write_rows(options.output, rows)
    print_table(rows)


if __name__ == "__main__":
    main()
