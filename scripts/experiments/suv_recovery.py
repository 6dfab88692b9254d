"""SUVmean, SUVmax and SUVpeak of hot regions after restoring a low-count PET scan, against the full count.

    python scripts/experiments/suv_recovery.py SCAN [--drf 12] [--slices 40:120] [--bundle pet_synthesis_restore_rwkv]

SCAN is a full-count volume: a DICOM series or a file in SUV. Low counts are simulated as in the bundle's
``evaluate.json``. Regions are found in the full-count scan, as an audit finds them. The Gaussian is the bundle's tuned
``gaussian_3d``, or as wide as ``--sigma`` says (mm). Printed is the ratio to full count, region by region.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter

from medrestore_monai import Restorer
from medrestore_monai.audit.hot_regions import find_hot_regions, suv_peak
from medrestore_monai.data import LoadImageOrSeriesd
from medrestore_monai.transforms import FixedDegradationd, SimulatePETLowCountd, ToSUVd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", type=Path)
    parser.add_argument("--drf", type=float, default=12.0)
    parser.add_argument("--slices", default=":", help="a range, such as 40:120")
    parser.add_argument("--sigma", type=float, required=True, help="of the 3D Gaussian to compare with, mm")
    parser.add_argument("--bundle", default="pet_synthesis_restore_rwkv")
    options = parser.parse_args()
    data = ToSUVd("image")(LoadImageOrSeriesd("image", "PT")({"image": str(options.scan)}))
    start, _, stop = options.slices.partition(":")
    chosen = slice(int(start) if start else None, int(stop) if stop else None)
    image = data["image"][..., chosen]
    spacing = tuple(float(step) for step in image.affine[:3, :3].norm(dim=0))
    full = image.as_tensor()[0].numpy()
    simulate = FixedDegradationd(SimulatePETLowCountd("image", options.drf), seed=0)
    clean = MetaTensor(torch.from_numpy(full)[None], affine=image.affine)
    low = simulate({"image": clean, "name": options.scan.name})["image"].as_tensor()[0].numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        restored = np.asarray(Restorer(options.bundle)(low, modality="PT", spacing=spacing))
    images = {
        "low count": low,
        f"Gaussian, 3D, {options.sigma:g} mm": gaussian_filter(low, [options.sigma / step for step in spacing]),
        options.bundle: restored,
    }
    for number, (mask, _) in enumerate(find_hot_regions(full, spacing), 1):
        truth = [full[mask].mean(), full[mask].max(), suv_peak(full, mask, spacing)]
        volume = mask.sum() * np.prod(spacing) / 1000
        cells = []
        for one in images.values():
            values = [one[mask].mean(), one[mask].max(), suv_peak(one, mask, spacing)]
            ratios = [f"{value / wanted:.2f}" if wanted else "-" for value, wanted in zip(values, truth, strict=True)]
            cells.append(" / ".join(ratios))
        known = " / ".join("-" if value is None else f"{value:.1f}" for value in truth)
        print(f"| {number}, {volume:.1f} ml | {known} | " + " | ".join(cells) + " |", flush=True)
    print("region | full count: SUVmean / max / peak | " + " | ".join(images))


if __name__ == "__main__":
    main()
