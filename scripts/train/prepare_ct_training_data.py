"""Lay CT slices of several public collections out as one training folder: one sub-folder a patient.

    python scripts/train/prepare_ct_training_data.py SOURCE OUTPUT

SOURCE holds ``ct_lung_tcga`` (``ct_slices.npz`` with ``stored``, ``rescale_slope``, ``rescale_intercept``, and
``meta.json`` in the same order) and ``ct_chest_lidc`` (a NIfTI volume). Each slice or volume becomes a NIfTI file in HU
with its pixel spacing. The collections are TCGA-LUAD/TCGA-LUSC and LIDC-IDRI of The Cancer Imaging Archive.
"""

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np


def write_tcga(source: Path, output: Path) -> int:
    """Write every slice of the TCGA archive; returns their number."""
    slices = np.load(source / "ct_slices.npz")
    cards = json.loads((source / "meta.json").read_text())
    scaling = zip(slices["rescale_slope"], slices["rescale_intercept"], strict=True)
    for number, (card, stored, (slope, intercept)) in enumerate(zip(cards, slices["stored"], scaling, strict=True)):
        hu = stored.T.astype(np.float64) * float(slope) + float(intercept)  # columns first, as NIfTI has it
        row, column = card["pixel_spacing"]
        affine = np.diag([-column, -row, float(card["slice_thickness"]), 1.0])
        folder = output / card["patient"]
        folder.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.rint(hu).astype(np.int16)[..., None], affine), folder / f"slice{number:03d}.nii.gz")
    return len(cards)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    count = write_tcga(options.source / "ct_lung_tcga", options.output)
    for volume in sorted((options.source / "ct_chest_lidc").glob("*.nii.gz")):
        folder = options.output / volume.name.split("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        nib.save(nib.load(volume), folder / volume.name)
        count += 1
    print(f"{count} images of {len(list(options.output.iterdir()))} patients in {options.output}")


if __name__ == "__main__":
    main()
