"""Choose the parameters of the classical baselines on training data, for ``medrestore evaluate --tuned``.

    python scripts/tune_classical.py --bundle ct_denoise_restore_rwkv --data TRAIN -o tuned.json
    python scripts/tune_classical.py --bundle NAME --data TRAIN --set dose=0.1 -o tuned.json

TRAIN is what the bundle was trained on: of it, the patients of the training part are used, degraded as the bundle's
``evaluate.json`` says. Each method takes the values with the best mean PSNR in the modality's window: first of a coarse
grid, then halfway (in the logarithm) to its neighbors. A value at the end of the grid is reported. What is known from
how the images were taken, such as the measured part of k-space, comes from ``evaluate.json`` and is not tuned.
"""

import argparse
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from medrestore_monai.bundles import find_bundle
from medrestore_monai.classical import BASELINES, GRIDS, KNOWN, Classical
from medrestore_monai.evaluate import Contestant, known_psf, open_model, open_source, parse_settings, task_of
from medrestore_monai.inferers import SliceWiseInferer
from medrestore_monai.protocols import PROTOCOLS

Values = dict[str, float]


class Trials:
    """Mean PSNR of a method on all training slices, each setting tried once; ``known`` values stay as they are."""

    def __init__(self, method: str, known: Values, cases: list[tuple]) -> None:
        self.method, self.known, self.cases = method, known, cases
        self.tried: dict[tuple, float] = {}

    def psnr(self, values: Values) -> float:
        """Return the mean PSNR in dB with these values."""
        key = tuple(sorted(values.items()))
        if key not in self.tried:
            method = Classical(self.method, {**self.known, **values})
            infer = SliceWiseInferer(clip_output=True, add_clipped=True)
            scores = []
            for image, label, scale, score, psf in self.cases:
                restored = infer(image[None], method, psf=psf)[0].double()
                scores.append(score(scale(restored), label))
            self.tried[key] = sum(scores) / len(scores)
        return self.tried[key]

    def best(self, candidates: Iterable[Values]) -> Values:
        """Return the first of the candidates with the highest PSNR."""
        return max(candidates, key=self.psnr)


def neighbors(values: Values) -> Iterable[Values]:
    """Every value as it is, or halfway to the next one of its grid, in the logarithm."""
    choices = []
    for name, value in values.items():
        grid = GRIDS[name]
        at = grid.index(value)
        near = [(value * grid[i]) ** 0.5 for i in (at - 1, at + 1) if 0 <= i < len(grid)]
        choices.append([value, *(float(f"{one:.3g}") for one in near)])
    return (dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*choices))


def tune(method: str, names: Iterable[str], known: Values, cases: list[tuple]) -> tuple[Values, float, list[str]]:
    """Return the best values, their PSNR, and the names of those at an end of their grid."""
    names, known = [name for name in names if name not in known], {name: known[name] for name in names if name in known}
    trials = Trials(method, known, cases)
    grids = itertools.product(*(GRIDS[name] for name in names))
    coarse = trials.best(dict(zip(names, values, strict=True)) for values in grids)
    best = trials.best(neighbors(coarse))
    ends = [name for name in names if best[name] in (GRIDS[name][0], GRIDS[name][-1])]
    return {**known, **best}, trials.psnr(best), ends


def read_cases(options: argparse.Namespace) -> tuple[list[tuple], str, str, Values]:
    """Return scaled images with what is needed to score them, the task, the modality, and the known parameters."""
    wishes = {"part": "train", "seed": options.seed}
    bundle = find_bundle(options.bundle)
    modality = bundle.modalities[0]
    model = open_model(
        Contestant(bundle.name, bundle), modality, options.data, "cpu", parse_settings(options.set), wishes
    )
    source = open_source(model, options.data, options.layout, "train", options.allow_gaps, options.slices)
    protocol = PROTOCOLS["standard"]
    cases = []
    for item in track(source.items, "Degrading", console=Console(stderr=True)):
        case = source(item)
        scaled = model.scaling(dict(case))
        lower, upper = (float(end) for end in scaled["image"].meta["intensity_range"])
        window = protocol.window(source.modality, (lower, upper))

        def score(pred: torch.Tensor, label: torch.Tensor, window: tuple[float, float] = window) -> float:
            # of all scores this one alone: SSIM and color differences would take most of the time
            error = pred.double().clamp(*window) - label.clamp(*window)
            return float(10 * torch.log10((window[1] - window[0]) ** 2 / error.square().mean()))

        def scale(pred: torch.Tensor, lower: float = lower, upper: float = upper) -> torch.Tensor:
            return pred.as_subclass(torch.Tensor) * (upper - lower) + lower

        label = case["label"].as_subclass(torch.Tensor).double()
        cases.append((scaled["image"], label, scale, score, known_psf(case)))
    known = {name: float(model.parser[place]) for name, place in KNOWN.items() if place in model.parser.get()}
    return cases, task_of(bundle, modality), source.modality, known


def write(path: Path, content: Mapping) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--layout", default="clean", help="as for medrestore evaluate")
    parser.add_argument("--allow-gaps", action="store_true")
    parser.add_argument("--slices", type=int, default=8, help="how many, evenly spread over the training part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as for medrestore evaluate")
    parser.add_argument("--methods", help="names separated by commas; by default those of the bundle's task")
    options = parser.parse_args()
    cases, task, modality, known = read_cases(options)
    defaults = {name: values for one in BASELINES.values() for name, values in one.items()}
    chosen = options.methods.split(",") if options.methods else list(BASELINES[task])
    console, tuned = Console(), {}
    inputs = [score(scale(image), label) for image, label, scale, score, _ in cases]
    console.print(f"input: {sum(inputs) / len(inputs):.2f} dB, {len(cases)} slices")
    for method in chosen:
        values, psnr, ends = tune(method, defaults[method], known, cases)
        tuned[method] = values
        at_end = f" ({', '.join(ends)} at an end of the grid)" if ends else ""
        console.print(f"{method}: {values}, {psnr:.2f} dB{at_end}")
    about = {"bundle": options.bundle, "modality": modality, "task": task, "slices": len(cases), "seed": options.seed}
    write(options.output, {**about, "baselines": tuned})


if __name__ == "__main__":
    main()
