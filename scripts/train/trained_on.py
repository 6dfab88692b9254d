r"""Write what a bundle was trained on into its ``configs/metadata.json``: the ranges that later checks compare with.

    python scripts/train/trained_on.py pet_synthesis_restore_rwkv --data DIR --stage train_cpu [--samples 256]
    python scripts/train/trained_on.py pet_synthesis_restore_rwkv --data DIR --stage train_cpu \
        --stage train_cpu,train_cpu_second --stage train_cpu,train_cpu_second,train_cpu_third --note "..." \
        --scanner "PT tracers=FDG" --scanner "CT tube_voltage_kv=120,140"

A ``--stage`` names the overlays that one training laid over ``train.json``; weights of several trainings have several.
The trainings' own data lists and transforms are used, so what is written is what the network saw: ``trained_on`` holds
``measured``, how these values were found, ``started_from``, a bundle whose weights came first, and ``modalities``:

* patients and slices, apart from slices ``drawn`` upon another modality; or the number of pictures;
* ``pixel_mm`` and ``distance_mm`` between slices, of the clean images; for CT also the cutoff of their kernels;
* ``degradations``, the ranges that the random transforms draw from;
* what ``--scanner`` says of the scanners, where the images or their sources state it: ``tube_voltage_kv`` and
  ``field_strength_t``, lowest and highest, and ``tracers``, names; say it again each time, as the block is new;
* of ``--samples`` patches of each stage, the ``noise_level`` of the degraded ones
  (:func:`medrestore_monai.classical.noise_level`, from the 1st to the 99th percentile) and a histogram of the clean
  ones, in the scale of the network.
"""

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from medrestore_monai.bundles import Bundle, find_bundle
from medrestore_monai.classical import noise_level
from medrestore_monai.data import LoadImageOrSeriesd
from medrestore_monai.engines import SeededLoader
from medrestore_monai.intensity import INTENSITY_RANGES
from medrestore_monai.transforms.ct.noise_measure import typical_noise

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
EDGES = (0.0, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 5.0)
DRAWN = "upon_"  # folders of slices drawn upon those of another modality
PICTURES = ("RGB", "GRAY")
# by random transform, the attributes that hold what it draws from
RANGES = {
    "RandCTLowDosed": {"dose": "dose", "kernel_cutoff_per_mm": "cutoff"},
    "RandKSpaceTruncationd": {"kspace_fraction": ("low", "high")},
    "RandZoomd": {"zoom": ("rand_zoom.min_zoom", "rand_zoom.max_zoom")},
    "RandLinearMotionBlurd": {"motion_px": "length"},
    "RandMotionBlurd": {"shaken_motion_px": "length"},
    "RandBentMotionBlurd": {"bent_motion_px": "length"},
    "RandGaussianBlurd": {"gaussian_sigma_px": "sigma"},
    "RandAnisotropicGaussianBlurd": {"along_sigma_px": "sigma_along", "across_sigma_px": "sigma_across"},
    "RandDefocusBlurd": {"defocus_radius_px": "radius"},
    "RandVaryingBlurd": {"varying_width_px": "width"},
    "RandJPEGd": {"jpeg_quality": "quality"},
    "RandSensorNoised": {"noise_gray_levels": "std"},
}


class Training(NamedTuple):
    """One modality in one stage."""

    items: Sequence[Mapping[str, Any]]
    dataset: Any
    weights: Any


def rounded(values: Iterable[float], digits: int = 3) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]


def compact(text: str) -> str:
    """Put lists of plain values into one line, as the configurations have them."""
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)


def with_block(text: str, block: Mapping[str, Any]) -> str:
    """Put the block at the end of a ``metadata.json``, in the place of an earlier one; what else it holds stays."""
    before = re.split(r',\s*"trained_on": ', text)[0].rstrip()
    before = before.removesuffix("}").rstrip() if before == text.rstrip() else before
    listed = compact(json.dumps(block, indent=4)).replace("\n", "\n    ")
    return f'{before},\n    "trained_on": {listed}\n}}\n'


def find_config(bundle: Bundle, name: str) -> Path:
    """Return a configuration of the bundle, or one of its experiments."""
    own = bundle.config(name)
    return own if own.is_file() else EXPERIMENTS / bundle.name / f"{name}.json"


def read_stage(bundle: Bundle, overlays: str, data: Path) -> ConfigParser:
    config = ConfigParser()
    config.read_config([str(find_config(bundle, name)) for name in ("train", *overlays.split(","))])
    # nothing is cached: few items are drawn
    config.update({"dataset_dir": str(data), "num_workers": 0, "cache_rate": 0.0})
    return config


def trainings(bundle: Bundle, config: ConfigParser) -> dict[str, Training]:
    """Return the data of one stage by modality: ``train``, or ``ct#train``, ``mr#train`` and so on."""
    places = {modality: f"{modality.lower()}#train" for modality in bundle.modalities}
    if len(places) > 1 and all(place.split("#")[0] in config.get() for place in places.values()):
        datasets = {modality: config.get_parsed_content(place) for modality, place in places.items()}
        return {modality: Training(dataset.data, dataset, None) for modality, dataset in datasets.items()}
    dataset = config.get_parsed_content("train#dataset")
    weights = config.get_parsed_content("train#weights") if "weights" in config["train"] else None
    return {bundle.modalities[0]: Training(dataset.data, dataset, weights)}


def counts(modality: str, items: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    if modality in PICTURES:
        return {"pictures": len({item["label"] for item in items})}
    real = [item for item in items if not item["patient"].startswith(DRAWN)]
    found = {"patients": len({item["patient"] for item in real}), "slices": slices_of(real)}
    drawn = slices_of(items) - found["slices"]
    return {**found, "drawn_slices": drawn} if drawn else found


def slices_of(items: Sequence[Mapping[str, Any]]) -> int:
    return sum(1 if "slice" in item else int(item["slices"]) for item in items)


def grids(modality: str, items: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the ranges of pixel size, slice distance and, for CT, of the kernels' cutoff of the clean images."""
    pixels, distances, cutoffs = set(), set(), []
    for path, uid in sorted({(item["label"], item.get("series_uid", "")) for item in items}):
        image = LoadImageOrSeriesd("label")({"label": path, "series_uid": uid})["label"]
        sizes = image.affine[:3, :3].norm(dim=0).tolist()
        pixels.update(sizes[:2])
        if image.ndim == 4 and image.shape[-1] > 1:
            distances.add(sizes[2])
        if modality == "CT":
            hu = image.as_tensor().float()
            noise = typical_noise([hu] if hu.ndim == 3 else hu.unbind(-1)[::8], sizes[0])
            cutoffs += [] if noise is None else [noise.cutoff]
    found = {"pixel_mm": rounded((min(pixels), max(pixels)))}
    if distances:
        found["distance_mm"] = rounded((min(distances), max(distances)))
    if cutoffs:
        found["kernel_cutoff_per_mm"] = rounded((min(cutoffs), max(cutoffs)))
    return found


def flat(transform: Any) -> Iterator[Any]:
    """Give the transforms within a composition one by one."""
    if isinstance(transform, Compose):
        for one in transform.transforms:
            yield from flat(one)
    else:
        yield transform


def degradations(dataset: Any) -> dict[str, list[float]]:
    """Return what the random transforms draw from."""
    found: dict[str, list[float]] = {}
    for one in flat(dataset.transform):
        for name, source in RANGES.get(type(one).__name__, {}).items():
            found[name] = rounded(np.ravel(attrgetter(*np.atleast_1d(source))(one)))
        if type(one).__name__ == "RandPETLowCountd":
            found |= {name: rounded(one.ranges[name]) for name in ("drf", "counts")}
    return found


def patches(training: Training, samples: int, seed: int) -> tuple[list[float], np.ndarray]:
    """Draw patches as the training does; return their noise levels and how many clean values are in each bin."""
    loader = SeededLoader(training.dataset, batch_size=1, seed=seed, weights=training.weights)
    levels, histogram = [], np.zeros(len(EDGES) - 1)
    while len(levels) < samples:
        for batch in loader:
            image, label = batch["image"][0], batch["label"][0]
            with_neighbors = len(image) > len(label)
            levels.append(noise_level((image[len(image) // 2][None] if with_neighbors else image).numpy()))
            histogram += np.histogram(torch.as_tensor(label).numpy(), EDGES)[0]
            if len(levels) == samples:
                break
    return levels, histogram


def scanners(texts: Iterable[str], modalities: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return what is said of the scanners, by modality.

    Raises:
        ValueError: a text is none of ``MODALITY NAME=VALUE,VALUE``.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        parts = re.fullmatch(r"(\w+) (tube_voltage_kv|field_strength_t|tracers)=(.+)", text)
        if parts is None or parts[1] not in modalities:
            raise ValueError(f"--scanner is 'MODALITY NAME=VALUES' of a modality of the bundle, got {text!r}.")
        listed = parts[3].split(",")
        numbers = [] if parts[2] == "tracers" else [float(one) for one in listed]
        found.setdefault(parts[1], {})[parts[2]] = [min(numbers), max(numbers)] if numbers else listed
    return found


def described(modality: str, stages: Sequence[Training], samples: int, seed: int) -> dict[str, Any]:
    """Return what is known of one modality, over all stages."""
    items = list({(one["label"], one.get("slice")): one for stage in stages for one in stage.items}.values())
    drawn: dict[str, list[float]] = {}
    levels, histogram = [], np.zeros(len(EDGES) - 1)
    for stage in stages:
        for name, values in degradations(stage.dataset).items():
            both = [*drawn.get(name, values), *values]
            drawn[name] = [min(both), max(both)]
        found, counted = patches(stage, samples, seed)
        levels += found
        histogram += counted
    return {
        "unit": INTENSITY_RANGES[modality].unit,
        **counts(modality, items),
        **({} if modality in PICTURES else grids(modality, items)),
        "degradations": drawn,
        "noise_level": rounded(np.percentile(levels, [1, 99])),
        "intensity_histogram": {"edges": list(EDGES), "fraction": rounded(histogram / histogram.sum())},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--data", type=Path, required=True, help="the folder that the training was run on")
    parser.add_argument("--stage", action="append", metavar="OVERLAYS", help="separated by commas (default: train_cpu)")
    parser.add_argument("--samples", type=int, default=256, help="patches to draw of each stage (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scanner", action="append", default=[], metavar="'MODALITY NAME=VALUES'", help="see above")
    parser.add_argument("--note", default="on the data and with the overlays of the training")
    options = parser.parse_args()
    bundle, names = find_bundle(options.bundle), options.stage or ["train_cpu"]
    try:
        said = scanners(options.scanner, bundle.evaluated)
    except ValueError as error:
        parser.error(str(error))
    configs = [read_stage(bundle, name, options.data) for name in names]
    stages = [trainings(bundle, config) for config in configs]
    trained_on: dict[str, Any] = {"measured": options.note}
    if "start_from" in configs[0].get():
        trained_on["started_from"] = configs[0]["start_from"]
    trained_on["modalities"] = {
        modality: {
            **described(modality, [stage[modality] for stage in stages], options.samples, options.seed),
            **said.get(modality, {}),
        }
        for modality in stages[0]
    }
    path = bundle.config("metadata")
    path.write_text(with_block(path.read_text(encoding="utf-8"), trained_on), encoding="utf-8")
    print(json.dumps(trained_on, indent=4))


if __name__ == "__main__":
    main()
