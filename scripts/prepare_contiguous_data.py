"""Lay contiguous CT and PET slices out as volumes, for ``scripts/tune_classical.py`` and whatever needs neighbors.

    python scripts/prepare_contiguous_data.py SOURCE OUTPUT

SOURCE holds, each with ``slices.npz``, one array ``[slices, rows, columns]`` for each patient, and ``meta.json`` in the
same order:

* ``ct_contiguous_tcia``: CT in HU of four patients of TCIA's CMB-CRC, ACRIN-FLT-Breast and another collection (CC BY
  3.0 and 4.0 to our knowledge);
* ``pet_fdg_qin_hn_0024``: one whole-body FDG PET in stored values (TCIA QIN-HEADNECK, CC BY 3.0 to our knowledge, doi
  10.7937/K9/TCIA.2015.K0F5CGLI).

OUTPUT becomes ``CT/<patient>/CT.nii.gz`` and ``PT/<patient>/part_<n>.nii.gz``: the scan is cut into parts of 60 slices,
about as long as a bed position is wide, whose noise differs. All are for training. The header of the PET scan is not
there, so its SUV is not known: it is scaled to a mean SUV of 0.9 in the body, which is what lies above a quarter of the
95th percentile. To load:

    "datalist": {"_target_": "medrestore_monai.layouts.training_slices", "folder": OUTPUT/CT, "part": "all"}

Nothing is downloaded.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import preparing

from medrestore_monai.layouts import training_slices

PART = 60  # slices
MEAN_SUV = 0.9


def read(folder: Path) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Return card and voxels ``(X, Y, Z)`` of every array."""
    missing = [name for name in ("meta.json", "slices.npz") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} holds no {' and no '.join(missing)}.")
    cards = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    arrays = np.load(folder / "slices.npz")
    return [(card, arrays[card["key"]].transpose(2, 1, 0)) for card in cards]


def affine(column: float, row: float, distance: float) -> np.ndarray:
    return np.diag([-column, -row, distance, 1.0])


def to_suv(stored: np.ndarray, card: dict[str, Any]) -> np.ndarray:
    """Return stored values as SUV of the assumed mean."""
    slope, intercept = (np.asarray(card[f"rescale_{name}"], dtype=np.float64) for name in ("slope", "intercept"))
    activity = stored * slope + intercept
    body = activity > np.percentile(activity, 95) / 4
    scaled: np.ndarray = (activity * MEAN_SUV / activity[body].mean()).astype(np.float32)
    return scaled


def main(arguments: Sequence[str] | None = None) -> None:
    options = preparing.parser(__doc__, "folder with the collections' folders").parse_args(arguments)
    with preparing.prepared(options.output, training_slices) as output:
        for card, hu in read(options.source / "ct_contiguous_tcia"):
            distance, row, column = card["spacing_mm"]
            target = output / "CT" / card["key"] / "CT.nii.gz"
            preparing.write_volume(target, hu.astype(np.int16), affine(column, row, distance))
        for card, stored in read(options.source / "pet_fdg_qin_hn_0024"):
            row, column = card["pixel_mm"]
            grid = affine(column, row, float(card["thickness"]))
            suv = to_suv(stored, card)
            for first in range(0, suv.shape[-1], PART):
                target = output / "PT" / card["key"] / f"part_{first // PART}.nii.gz"
                preparing.write_volume(target, suv[..., first : first + PART], grid)


if __name__ == "__main__":
    preparing.run(main)
