"""Lay FDG PET volumes in SUV out as training, validation, test and other folders, one sub-folder a patient.

    python scripts/train/prepare_pet_training_data.py SOURCE OUTPUT [--split scripts/train/splits.csv] [--ct CT]

SOURCE holds, as far as there is:

* ``sts_pet_crops``: ``STS_001/PET.nii.gz``, ... in SUV, crops around soft-tissue sarcomas (TCIA Soft-tissue-Sarcoma, as
  in the IBSI's data sets, CC BY 3.0, doi 10.7937/K9/TCIA.2015.7GO2GSKS).
* ``pet_fdg_qin_hn_0024``: ``slices.npz`` and ``meta.json`` of a whole-body scan in Bq/ml (TCIA QIN-HEADNECK, CC BY 3.0
  to our knowledge, doi 10.7937/K9/TCIA.2015.K0F5CGLI). Weight and dose are not known: 3,600 Bq/ml are taken as SUV 1.
* ``pet_fdg_headneck``: one folder of DICOM in Bq/ml a patient (the same collection), turned into SUV by body weight.
* ``ct_contiguous_tcia``: ``slices.npz`` and ``meta.json`` of CT slabs in HU. Crops of tumors know neither air nor the
  middle of a body, so PET volumes drawn upon these slabs (``pet_from_ct.py``) train and validate as well.

Who trains, validates or tests is in the split file; without one, crops are drawn and DICOM scans test. With ``--ct``,
a folder as ``prepare_ct_training_data.py`` makes it, single PET slices drawn upon these CT slices train, too.

To load:

    "data": {"_target_": "medrestore_monai.data.training_volumes", "folder": OUTPUT, "part": "train"}

Nothing is downloaded.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import preparing
from pet_from_ct import pet_from_ct, pet_volume_from_ct

from medrestore_monai.data import PatientSplit, read_split, training_slices
from medrestore_monai.dicom import read_series, suv_factor

SUV_1 = 3600.0  # Bq/ml, of a scan without weight and dose
Scan = tuple[str, np.ndarray, np.ndarray]  # patient, SUV (X, Y, Z), affine


def whole_bodies(source: Path) -> Iterator[Scan]:
    """Give the whole-body scans in SUV."""
    folder = source / "pet_fdg_qin_hn_0024"
    for card, stored in preparing.read_stacks(folder) if folder.is_dir() else ():
        suv = (stored * card["rescale_slope"] + card["rescale_intercept"]) / SUV_1
        row, column = card["pixel_mm"]
        yield card["patient"], suv, np.diag([-column, -row, float(card["thickness"]), 1.0])
    for place in sorted(path for path in (source / "pet_fdg_headneck").glob("*") if path.is_dir()):
        series = read_series(place, modality="PT")
        yield place.name, series.array * suv_factor(series.datasets), series.affine


def drawn_volumes(source: Path, count: int, seed: int) -> Iterator[Scan]:
    """Give PET volumes drawn upon the CT slabs, ``count`` of each."""
    random, folder = np.random.RandomState(seed), source / "ct_contiguous_tcia"
    for card, hu in preparing.read_stacks(folder) if folder.is_dir() else ():
        distance, _, spacing = card["spacing_mm"]
        for _ in range(count):
            suv, pixel, step = pet_volume_from_ct(hu.astype(np.float32), spacing, distance, random)
            yield card["key"], suv, np.diag([pixel, pixel, step, 1.0])


def parts_of_crops(crops: Sequence[Path], options: argparse.Namespace) -> dict[str, str]:
    """Return the part of every patient, with a split file also of those that have no crop."""
    if options.split is not None:
        return read_split(options.split)
    split = PatientSplit(validation=options.validation, seed=options.seed)
    return split.parts_of(path.parent.name for path in crops)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = preparing.parser(__doc__, "folder with the collections' folders")
    parser.add_argument("--split", type=Path, help="file that says which patient is in which part")
    parser.add_argument(
        "--validation", type=float, default=0.15, help="of the crops, without a split file (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")
    parser.add_argument("--ct", type=Path, help="folder of CT slices to draw PET slices upon")
    parser.add_argument("--drawings", type=int, default=8, help="of each CT slice or slab (default: %(default)s)")
    options = parser.parse_args(arguments)
    crops = sorted((options.source / "sts_pet_crops").glob("*/PET.nii.gz"))
    if not crops:
        raise ValueError(f"{options.source / 'sts_pet_crops'} holds no volumes STS_.../PET.nii.gz.")
    parts = parts_of_crops(crops, options)
    with preparing.prepared(options.output, training_slices) as output:
        for path in preparing.progress(crops, "crops"):
            patient = path.parent.name
            preparing.put(path, output / parts[patient] / patient / path.name)
        for patient, suv, affine in whole_bodies(options.source):
            part = parts.get(patient, "test")
            preparing.write_volume(output / part / patient / "PET.nii.gz", suv.astype(np.float32), affine)
        if options.split is not None:
            for number, (patient, suv, affine) in enumerate(
                drawn_volumes(options.source, options.drawings, options.seed)
            ):
                if parts[patient] in ("train", "validation"):
                    target = output / parts[patient] / f"upon_{patient}" / f"drawn_{number:03d}.nii.gz"
                    preparing.write_volume(target, suv, affine)
        if options.ct is not None:
            preparing.draw_upon_ct(
                options.ct,
                output / "train",
                pet_from_ct,
                options.drawings,
                options.seed,
                parts if options.split else {},
            )


if __name__ == "__main__":
    preparing.run(main)
