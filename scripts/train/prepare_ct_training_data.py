"""Lay CT slices of several public collections out as one training folder: one sub-folder a patient.

    python scripts/train/prepare_ct_training_data.py SOURCE OUTPUT [--split scripts/train/splits.csv]

SOURCE holds ``ct_lung_tcga`` (``ct_slices.npz`` with ``stored``, ``rescale_slope``, ``rescale_intercept``, and
``meta.json`` in the same order) and ``ct_chest_lidc`` (a NIfTI volume). Each slice or volume becomes a NIfTI file in HU
with its pixel spacing. The collections are TCGA-LUAD/TCGA-LUSC and LIDC-IDRI of The Cancer Imaging Archive (CC BY 3.0,
doi 10.7937/K9/TCIA.2016.JGNIHEP5, 10.7937/K9/TCIA.2016.TYGKKFMQ and 10.7937/K9/TCIA.2015.LO9QL9SX).

With ``--split``, patients are put into the folders of their parts, and those of ``ct_limb_sts``, ``ct_tcia_mixed`` and
``ct_contiguous_tcia`` (``slices.npz`` and ``meta.json``) come in addition, as far as SOURCE has them; a folder for
the option ``--ct`` of other scripts is made without. To load:

    "data": {"_target_": "medrestore_monai.data.training_slices", "folder": OUTPUT, "part": "train"}

Nothing is downloaded.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import preparing

from medrestore_monai.data import read_split, training_slices
from medrestore_monai.data.parts import UNUSED

STACKS = ("ct_limb_sts", "ct_tcia_mixed", "ct_contiguous_tcia")
Scan = tuple[str, str, np.ndarray, np.ndarray]  # patient, name of the file, HU (X, Y, Z), affine


def tcga(source: Path) -> Iterator[Scan]:
    """Give every slice of the TCGA archive."""
    slices = np.load(source / "ct_slices.npz")
    cards = json.loads((source / "meta.json").read_text())
    scaling = zip(slices["rescale_slope"], slices["rescale_intercept"], strict=True)
    for number, (card, stored, (slope, intercept)) in enumerate(zip(cards, slices["stored"], scaling, strict=True)):
        hu = stored.T.astype(np.float64) * float(slope) + float(intercept)  # columns first, as NIfTI has it
        row, column = card["pixel_spacing"]
        affine = np.diag([-column, -row, float(card["slice_thickness"]), 1.0])
        yield card["patient"], f"slice{number:03d}.nii.gz", np.rint(hu).astype(np.int16)[..., None], affine


def stacks(folder: Path) -> Iterator[Scan]:
    """Give the stacks of a collection."""
    for card, stored in preparing.read_stacks(folder):
        hu = stored * float(card.get("rescale_slope") or 1) + float(card.get("rescale_intercept") or 0)
        distance, row, column = spacing_of(card)
        affine = np.diag([-column, -row, distance, 1.0])
        patient = card.get("patient") or card["key"]
        yield patient, f"{card['key']}.nii.gz", np.rint(hu).astype(np.int16), affine


def spacing_of(card: Mapping[str, Any]) -> list[float]:
    """Return the distance of slices, rows and columns in mm."""
    if "spacing_mm" in card:
        return [float(step) for step in card["spacing_mm"]]
    steps = card.get("voxel_mm") or [*card["pixel_mm"], card["thickness"]]
    column, row, distance = (float(step) for step in steps)
    apart = np.median(np.diff(card["slice_index"])) if len(card["slice_index"]) > 1 else 1  # not all slices are there
    return [distance * float(apart), row, column]


def scans(source: Path, more: bool) -> Iterator[Scan]:
    """Give the slices of the TCGA archive, and ``more`` collections as far as they are there."""
    yield from tcga(source / "ct_lung_tcga")
    for folder in (source / name for name in STACKS if more):
        yield from stacks(folder) if folder.is_dir() else ()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = preparing.parser(__doc__, "folder with the collections' folders")
    parser.add_argument("--split", type=Path, help="which patient is in which part; more collections are laid out")
    options = parser.parse_args(arguments)
    if not (options.source / "ct_lung_tcga").is_dir():
        raise ValueError(f"{options.source} holds no folder ct_lung_tcga.")
    parts = None if options.split is None else read_split(options.split)
    with preparing.prepared(options.output, training_slices) as output:
        for patient, name, voxels, affine in scans(options.source, parts is not None):
            part = "" if parts is None else parts.get(patient, UNUSED)
            if part != UNUSED:
                preparing.write_volume(output / part / patient / name, voxels, affine)
        for path in sorted((options.source / "ct_chest_lidc").glob("*.nii.gz")):
            patient = path.name.split("_")[0]
            part = "" if parts is None else parts.get(patient, UNUSED)
            if part != UNUSED:
                preparing.put(path, output / part / patient / path.name)


if __name__ == "__main__":
    preparing.run(main)
