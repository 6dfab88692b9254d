r"""Choose the parameters of the classical baselines on training data: the ``docs/tuned.json`` of a bundle.

    python scripts/calibrate/tune_classical.py --bundle pet_synthesis_restore_rwkv --data TRAIN -o tuned.json
    python scripts/calibrate/tune_classical.py --bundle all_in_one_restore_rwkv --modality CT --data TRAIN -o tuned.json
    python scripts/calibrate/tune_classical.py --bundle NAME --data TRAIN --levels dose=0.1,0.5 -o tuned.json
    python scripts/calibrate/tune_classical.py --bundle rgb_deblur_mlff_unet --data TRAIN --levels noise=1,4 \
        --vary length=12 --vary length=1,sigma=1.5 -o tuned.json

TRAIN is what the bundle was trained on, with whole volumes, so that methods in 3D see neighbors: of it, the patients of
the training part are used (``--part all``: all there are), degraded as the bundle's ``evaluate.json`` says. A modality
with noise is degraded at several strengths (``--levels``; by default doses of 0.5, 0.25, 0.1 and DRF 4, 8, 12, 20). All
degraded volumes are put in the order of their measured noise level and divided into as many groups as there are
strengths; the geometric mean of a group is its level in the table. ``--vary`` degrades at each strength in several
ways, such as motion and Gaussian blur, for one table that fits all of them.

Each method takes the values with the best mean PSNR in the modality's window: first of a coarse grid, then halfway (in
the logarithm) to its neighbors. Of all tables whose values do not fall as the noise rises, the best one is taken; what
undoes blur does not rise. A value at the end of the grid is reported. What is known from how the images were taken,
such as the measured part of k-space, comes from ``evaluate.json`` and is not tuned. Other modalities in the output file
stay there.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from medrestore_monai.bundles import Bundle, find_bundle
from medrestore_monai.classical import BASELINES, GRIDS, KNOWN, Classical, Search, best_monotone, read_tuned
from medrestore_monai.classical.tuned import VERSION
from medrestore_monai.evaluate import (
    Candidate,
    Volume,
    load_volume,
    open_model,
    open_source,
    parse_settings,
)
from medrestore_monai.evaluate.restorations import by_classical, by_nothing
from medrestore_monai.evaluate.volumes import Slice
from medrestore_monai.files import atomic_file
from medrestore_monai.report.protocols import PROTOCOLS

LEVELS = {"CT": "dose=0.5,0.25,0.1", "PT": "drf=4,8,12,20"}
Values = dict[str, float]


class Group(NamedTuple):
    """Degraded volumes of about one noise level."""

    level: float
    volumes: Sequence[Volume]


def window_of(modality: str, one: Slice) -> tuple[float, float]:
    return PROTOCOLS["standard"].window(modality, one.range)


def mean_psnr(method: Any, volumes: Sequence[Volume], modality: str) -> float:
    """Return the mean PSNR of all scored slices."""
    window = partial(window_of, modality)
    scores = [volume.psnr(method(volume), window) for volume in volumes]
    return float(np.average(scores, weights=[len(volume.scored) for volume in volumes]))


def tune(
    method: str, names: Sequence[str], known: Values, groups: Sequence[Group], modality: str
) -> tuple[dict[str, list[float]], list[float], list[str]]:
    """Return the best values and their PSNR, by group, and the names of those at an end of their grid."""
    tried = []
    for group in groups:

        def score(values: Values, volumes: Sequence[Volume] = group.volumes) -> float:
            return mean_psnr(partial(by_classical, Classical(method, {**known, **values})), volumes, modality)

        search = Search(names, score)
        search.run()
        tried.append(search.tried)
    best = best_monotone(tried)
    psnr = [scores[tuple(values.items())] for scores, values in zip(tried, best, strict=True)]
    table = {name: [values[name] for values in best] for name in names}
    ends = [name for name in names if {GRIDS[name][0], GRIDS[name][-1]} & set(table[name])]
    return table, psnr, ends


def read_volumes(
    options: argparse.Namespace, bundle: Bundle, modality: str, setting: Mapping[str, Any]
) -> tuple[list[Volume], str, Values]:
    """Return the degraded volumes, the modality, and the known parameters."""
    settings = {**parse_settings(options.set), **setting}
    wishes = {"part": options.part, "seed": options.seed}
    model = open_model(Candidate(bundle.name, bundle), modality, options.data, "cpu", settings, wishes)
    source = open_source(model, options.data, options.layout, options.part, options.allow_gaps, options.slices)
    label = ", ".join(f"{name} {value:g}" for name, value in setting.items())
    shown = track(source.images(), f"Degrading {label}", console=Console(stderr=True))
    volumes = [load_volume(source, listed, model.scaling, whole=True) for listed in shown]
    known = {name: float(model.settings[place]) for name, place in KNOWN.items() if place in model.settings}
    return volumes, source.modality, known


def group_by_level(volumes: Sequence[Volume], count: int) -> list[Group]:
    """Divide volumes into groups of equal size and ascending noise level."""
    ordered = sorted(volumes, key=lambda volume: volume.level)
    parts = [part for part in np.array_split(np.arange(len(ordered)), min(count, len(ordered))) if len(part)]
    found: dict[float, list[Volume]] = {}
    for part in parts:
        chosen = [ordered[at] for at in part]
        level = float(np.exp(np.mean(np.log([volume.level for volume in chosen]))))
        found.setdefault(float(f"{level:.3g}"), []).extend(chosen)
    return [Group(level, chosen) for level, chosen in found.items()]


def parse_levels(text: str | None) -> list[dict[str, Any]]:
    """Turn ``NAME=V1,V2,...`` into a setting for each value; ``None`` or an empty text into none."""
    if not text:
        return [{}]
    name, _, values = text.partition("=")
    return [parse_settings([f"{name}={value}"]) for value in values.split(",")]


def parse_ways(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Turn each ``NAME=VALUE,NAME=VALUE`` into settings; no text into no settings."""
    return [parse_settings(text.split(",")) for text in texts] or [{}]


def kept_modalities(path: Path, modality: str) -> dict[str, Any]:
    """Return what an earlier file holds for other modalities."""
    if not path.exists():
        return {}
    read_tuned(path)  # refused here if it is something else
    earlier = json.loads(path.read_text(encoding="utf-8"))["modalities"]
    return {name: part for name, part in earlier.items() if name != modality}


def write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(path, single_writer=True) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def one_or_list(values: Sequence[float]) -> Any:
    return values[0] if len(set(values)) == 1 else list(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--modality", help="of DATA, for bundles of several")
    parser.add_argument("--layout", default="clean", help="as for medrestore evaluate")
    parser.add_argument("--part", default="train", help="train, or all if all of DATA is for training")
    parser.add_argument("--allow-gaps", action="store_true")
    parser.add_argument("--slices", type=int, default=8, help="how many to score, evenly spread (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as for medrestore evaluate")
    parser.add_argument("--levels", metavar="NAME=V1,V2,...", help="a setting that makes the noise; empty for none")
    parser.add_argument("--vary", action="append", default=[], metavar="NAME=VALUE,...", help="one way to degrade")
    parser.add_argument("--note", help="what DATA is, for readers of the file")
    parser.add_argument("--methods", help="names separated by commas; by default those of the bundle's task")
    options = parser.parse_args()
    console, bundle = Console(), find_bundle(options.bundle)
    modality = options.modality or bundle.modalities[0]
    task = bundle.task(modality)
    paired = options.layout not in ("clean", "ixi", "medmnist")
    usual = LEVELS.get(modality) if task in ("denoising", "synthesis") and not paired else None
    levels = parse_levels(usual if options.levels is None else options.levels)
    settings = [{**level, **way} for level in levels for way in parse_ways(options.vary)]
    kept = kept_modalities(options.output, modality)
    volumes: list[Volume] = []
    for setting in settings:
        found, modality, known = read_volumes(options, bundle, modality, setting)
        volumes += found
    groups = group_by_level(volumes, len(levels))
    inputs = [mean_psnr(by_nothing, group.volumes, modality) for group in groups]
    for group, psnr in zip(groups, inputs, strict=True):
        console.print(f"noise level {group.level:g}: input {psnr:.2f} dB, {len(group.volumes)} volumes")
    defaults = {name: values for one in BASELINES.values() for name, values in one.items()}
    tuned, scores = {}, {"input": inputs}
    for method in options.methods.split(",") if options.methods else list(BASELINES[task]):
        names = [name for name in defaults[method] if name not in KNOWN]
        mine = {name: known.get(name, defaults[method][name]) for name in defaults[method] if name in KNOWN}
        table, scores[method], ends = tune(method, names, mine, groups, modality)
        tuned[method] = {name: one_or_list(values) for name, values in table.items()}
        at_end = f" ({', '.join(ends)} at an end of the grid)" if ends else ""
        console.print(f"{method}: {tuned[method]}, {', '.join(f'{psnr:.2f}' for psnr in scores[method])} dB{at_end}")
    about = {
        "data": options.note or options.data.name,
        "volumes": len(volumes),
        "slices": sum(len(volume.scored) for volume in volumes),
        "seed": options.seed,
        "settings": [{**parse_settings(options.set), **setting} for setting in settings],
    }
    part = {
        "task": task,
        "tuned_on": about,
        "noise_levels": [group.level for group in groups],
        "baselines": tuned,
        "psnr": {name: [round(value, 2) for value in values] for name, values in scores.items()},
    }
    write(options.output, {"version": VERSION, "modalities": {**kept, modality: part}})


if __name__ == "__main__":
    main()
