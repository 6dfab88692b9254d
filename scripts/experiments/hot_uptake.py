"""Restore hot uptake with PET clipped at SUV 20 and at SUV 100: which limit suits a bundle's weights?

    python scripts/experiments/hot_uptake.py FOLDER --bundle all_in_one_restore_rwkv --scale 4

FOLDER holds full-count volumes, ``*/*.nii.gz`` in SUV, of people who did not train. They are multiplied by ``--scale``
to make uptake above SUV 20, and degraded to a twelfth of the counts. Slices with more than three such voxels are
restored one by one, some from each volume. The table has the mean over slices: PSNR in [0, 20] and [0, 100] SUV, and
above SUV 20 the root mean square error and the ratio of the means.
"""

import argparse
import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from medrestore_monai import Restorer
from medrestore_monai.bundles import find_bundle
from medrestore_monai.intensity import INTENSITY_RANGES
from medrestore_monai.transforms import FixedDegradationd, SimulatePETLowCountd

UPPER = INTENSITY_RANGES["PT"].upper
LIMITS = (20, 100)  # SUV
PER_VOLUME = 8


def limit(content: Any, suv: float) -> None:
    """Set the greatest SUV that is restored everywhere in a configuration."""
    if isinstance(content, list):
        for part in content:
            limit(part, suv)
    if not isinstance(content, dict):
        return
    kind = str(content.get("_target_", "")).rpartition(".")[2]
    if kind == "NoteOutsided":
        content["largest_suv"] = suv
    if kind in ("SliceWiseInferer", "KeepTotalActivityd"):
        content["clip_range"] = [0, suv / UPPER]
    for part in content.values():
        limit(part, suv)


def open_with(name: str, suv: float, folder: Path) -> Restorer:
    """Open a copy of a bundle that restores PET up to ``suv``."""
    root = folder / str(suv)
    shutil.copytree(find_bundle(name).root, root, ignore=shutil.ignore_patterns("runs", "eval"))
    config = root / "configs" / "inference.json"
    content = json.loads(config.read_text())
    limit(content, suv)
    config.write_text(json.dumps(content))
    return Restorer(root, device="cpu", trust_bundle=True)


def degraded(path: Path, scale: float) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Return a volume and its low-count copy in SUV, and the spacing in mm."""
    image = nib.load(path)
    volume = image.get_fdata(dtype=np.float32) * scale
    label = MetaTensor(volume[None], affine=torch.as_tensor(image.affine), meta={"modality": "PT", "unit": "SUV"})
    low = FixedDegradationd(SimulatePETLowCountd("image", drf=12), 0)({"image": label, "name": path.name})["image"]
    return volume, low.numpy()[0], [float(step) for step in image.header.get_zooms()]


def figures(restored: np.ndarray, label: np.ndarray) -> list[float]:
    """PSNR in both ranges, and error and ratio of the means above SUV 20."""
    hot = label > UPPER
    errors = [np.mean((restored.clip(0, top) - label.clip(0, top)) ** 2) / top**2 for top in LIMITS]
    error = np.sqrt(np.mean((restored[hot] - label[hot]) ** 2))
    return [*(-10 * np.log10(errors)), error, restored[hot].mean() / label[hot].mean()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", default="all_in_one_restore_rwkv")
    parser.add_argument("--scale", type=float, default=4.0)
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    rows: dict[str, list[list[float]]] = {name: [] for name in ("input", *map(str, LIMITS))}
    with tempfile.TemporaryDirectory() as folder:
        opened = {str(suv): open_with(options.bundle, suv, Path(folder)) for suv in LIMITS}
        for path in sorted(options.folder.glob("*/*.nii.gz")):
            label, low, spacing = degraded(path, options.scale)
            hot = np.flatnonzero((label > UPPER).sum(axis=(0, 1)) > 3)
            for at in hot[:: max(1, len(hot) // PER_VOLUME)]:
                one = low[..., at]
                rows["input"].append(figures(one, label[..., at]))
                for name, restorer in opened.items():
                    restored = restorer(one, modality="PT", spacing=spacing[:2])
                    rows[name].append(figures(np.asarray(restored), label[..., at]))
    print(
        f"{len(rows['input'])} slices\n| limit, SUV | PSNR, [0, 20] | PSNR, [0, 100] | RMSE above 20 | mean above 20 |"
    )
    print("|---|---|---|---|---|")
    for name, found in rows.items():
        low_range, wide, error, ratio = np.mean(found, axis=0)
        print(f"| {name} | {low_range:.2f} | {wide:.2f} | {error:.2f} | {100 * (ratio - 1):+.1f} % |")


if __name__ == "__main__":
    main()
