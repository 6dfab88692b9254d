"""Adapt bundles to the people of the split file who stand for a new scanner, and compare the verdict with the truth.

    python scripts/benchmark/adapt.py SOURCE OUTPUT --modality PT --steps 400

SOURCE holds ``sts_pet_crops`` and ``ct_limb_sts``, see ``scripts/train``. OUTPUT gets the images, by person, the report
of ``medrestore adapt`` and, if it was adopted, the bundle. Targets are ``clean``: the bundle's own simulation
degrades the images. Prints the verdict and the scores as one line of JSON.
"""

import argparse
import csv
import json
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from medrestore_monai.adapt import adapt

SPLIT = Path(__file__).resolve().parents[1] / "train" / "splits.csv"
BUNDLES = {"CT": "ct_denoise_restore_rwkv", "PT": "pet_synthesis_restore_rwkv"}


def people(collection: str) -> list[str]:
    with SPLIT.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return [row["patient"] for row in rows if row["part"] == "adaptation" and collection in row["folder"].split()]


def lay_out_pet(source: Path, output: Path) -> None:
    for person in people("sts_pet_crops"):
        image = nib.load(source / "sts_pet_crops" / person / "PET.nii.gz")
        (output / person).mkdir(parents=True)
        nib.save(image, output / person / "PET.nii.gz")


def lay_out_ct(source: Path, output: Path) -> None:
    """Write the slices of a person as one volume, at the distance that the kept slices have."""
    folder, chosen = source / "ct_limb_sts", people("ct_limb_sts")
    cards = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    with np.load(folder / "slices.npz") as arrays:
        for card in cards:
            if card["key"] in chosen:
                hu = arrays[card["key"]].astype(np.int16).transpose(2, 1, 0)  # (X, Y, Z)
                row, column, distance = card["voxel_mm"]
                step = distance * float(np.diff(card["slice_index"]).mean())
                (output / card["key"]).mkdir(parents=True)
                image = nib.Nifti1Image(hu, np.diag([-column, -row, step, 1.0]))
                nib.save(image, output / card["key"] / "CT.nii.gz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--modality", choices=("CT", "PT"), default="PT")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = options.output / f"data_{options.modality}"
    if not data.exists():
        (lay_out_pet if options.modality == "PT" else lay_out_ct)(options.source, data)
    began = time.process_time()
    done = adapt(
        data,
        options.output / f"adapted_{options.modality}_{options.seed}",
        BUNDLES[options.modality],
        minutes=options.minutes,
        steps=options.steps,
        seed=options.seed,
        device="cpu",
        progress=True,
    )
    line = {"verdict": done.decision.line, "scores": done.about["scores"], "data": done.about["data"]}
    line |= {"training": done.about.get("training"), "cpu_minutes": round((time.process_time() - began) / 60, 1)}
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
