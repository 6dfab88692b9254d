"""Write what a bundle was trained on into its ``configs/metadata.json``: the ranges that later checks compare with.

    python scripts/train/trained_on.py pet_synthesis_restore_rwkv --data DIR --overlays train_cpu [--samples 256]

The training's own data list and transforms are used, so what is written is what the network saw: people, slices, pixel
size and slice distance in mm of the clean images; of ``--samples`` drawn patches, the noise level of the degraded ones
(:func:`medrestore_monai.classical.noise_level`, from the 1st to the 99th percentile) and a histogram of the clean ones,
in the scale of the network; for CT also the cutoff of the kernels in cycles/mm.
"""

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from medrestore_monai.bundles import find_bundle
from medrestore_monai.classical import noise_level
from medrestore_monai.data import LoadImageOrSeriesd
from medrestore_monai.engines import SeededLoader

EDGES = (0.0, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 5.0)


def rounded(values: Iterable[float], digits: int = 3) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]


def compact(text: str) -> str:
    """Put lists of plain values into one line, as the configurations have them."""
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)


def grids(items: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the ranges of pixel size and slice distance of the images of a list, in mm."""
    pixels, distances = set(), set()
    for path, uid in sorted({(item["label"], item.get("series_uid", "")) for item in items}):
        image = LoadImageOrSeriesd("label")({"label": path, "series_uid": uid})["label"]
        sizes = image.affine[:3, :3].norm(dim=0).tolist()
        pixels.update(sizes[:2])
        if image.ndim == 4 and image.shape[-1] > 1:
            distances.add(sizes[2])
    found = {"pixel_mm": rounded((min(pixels), max(pixels)))}
    if distances:
        found["distance_mm"] = rounded((min(distances), max(distances)))
    return found


def patches(dataset: Any, weights: Any, samples: int, seed: int) -> dict[str, Any]:
    """Draw patches as the training does; return their noise levels and the histogram of the clean ones."""
    loader = SeededLoader(dataset, batch_size=1, seed=seed, weights=weights)
    levels, counts, cutoffs, drawn = [], np.zeros(len(EDGES) - 1), [], 0
    while drawn < samples:
        for batch in loader:
            image, label = batch["image"][0], batch["label"][0]
            levels.append(noise_level(image[len(image) // 2][None].numpy()))
            counts += np.histogram(torch.as_tensor(label).numpy(), EDGES)[0]
            if "ct_noise" in batch:
                cutoffs.append(float(batch["ct_noise"]["cutoff"]))
            drawn += 1
            if drawn == samples:
                break
    found: dict[str, Any] = {
        "noise_level": rounded(np.percentile(levels, [1, 99])),
        "intensity_histogram": {"edges": list(EDGES), "fraction": rounded(counts / counts.sum())},
    }
    if cutoffs:
        found["kernel_cutoff_per_mm"] = rounded((min(cutoffs), max(cutoffs)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--data", type=Path, required=True, help="the folder that the training was run on")
    parser.add_argument("--overlays", default="train_cpu", help="laid over train.json, separated by commas")
    parser.add_argument("--samples", type=int, default=256, help="patches to draw (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bundle = find_bundle(options.bundle)
    config = ConfigParser()
    config.read_config([str(bundle.config(name)) for name in ("train", *options.overlays.split(","))])
    config.update({"dataset_dir": str(options.data), "num_workers": 0})
    items = config.get_parsed_content("train#datalist")
    weights = config.get_parsed_content("train#weights") if config.get("train#weights") is not None else None
    trained_on = {
        "modalities": list(bundle.modalities),
        "patients": len({item["patient"] for item in items}),
        "slices": int(sum(item.get("slices", 1) for item in items)),
        **grids(items),
        **patches(config.get_parsed_content("train#dataset"), weights, options.samples, options.seed),
    }
    path = bundle.config("metadata")
    metadata = json.loads(path.read_text(encoding="utf-8"))
    metadata["trained_on"] = trained_on
    path.write_text(compact(json.dumps(metadata, indent=4)) + "\n", encoding="utf-8")
    print(json.dumps(trained_on, indent=4))


if __name__ == "__main__":
    main()
