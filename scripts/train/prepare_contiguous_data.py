"""Lay slabs of contiguous CT slices out as volumes, for ``tune_classical.py`` and trainings with neighbors.

    python scripts/train/prepare_contiguous_data.py SOURCE OUTPUT

SOURCE holds ``ct_contiguous_tcia``: ``slices.npz``, one array ``[slices, rows, columns]`` in HU for each patient, and
``meta.json`` in the same order; patients of TCIA's CMB-CRC, ACRIN-FLT-Breast and another collection (CC BY 3.0 and 4.0
to our knowledge). OUTPUT becomes ``PART/PATIENT/CT.nii.gz``. To load:

    "data": {"_target_": "medrestore_monai.data.training_volumes", "folder": OUTPUT, "part": "train"}

Nothing is downloaded.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import preparing

from medrestore_monai.data import read_split, training_slices

SPLIT = Path(__file__).parent / "splits.csv"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = preparing.parser(__doc__, "folder with the collection's folder")
    parser.add_argument("--split", type=Path, default=SPLIT, help="which patient is in which part (%(default)s)")
    options = parser.parse_args(arguments)
    parts, folder = read_split(options.split), options.source / "ct_contiguous_tcia"
    if not folder.is_dir():
        raise ValueError(f"{options.source} holds no folder {folder.name}.")
    with preparing.prepared(options.output, training_slices) as output:
        for card, hu in preparing.read_stacks(folder):
            distance, row, column = card["spacing_mm"]
            target = output / parts[card["key"]] / card["key"] / "CT.nii.gz"
            preparing.write_volume(target, hu.astype(np.int16), np.diag([-column, -row, distance, 1.0]))


if __name__ == "__main__":
    preparing.run(main)
