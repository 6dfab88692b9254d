"""Lay MR volumes of several public collections out as training, validation and test folders, one sub-folder a patient.

    python scripts/train/prepare_mri_training_data.py SOURCE OUTPUT [--split scripts/train/splits.csv] [--ct CT]

SOURCE holds these folders, with one NIfTI volume each:

* training: ``mri_brain_t1_studyforrest`` (Hanke et al. 2014, PDDL), ``mri_breast_dce`` (TCIA Breast-MRI-NACT-Pilot,
  CC BY 3.0, doi 10.7937/K9/TCIA.2016.QHsyhJKy), ``mri_thorax_seg3d`` (University of Utah, MIT);
* test, other scanners and parts of the body: ``mri_brain_t1gd_vsseg`` (TCIA Vestibular-Schwannoma-SEG, CC BY 4.0, doi
  10.7937/TCIA.9YTJ-5Q73), ``mri_abdomen_t2_cmbcrc`` (TCIA CMB-CRC, CC BY 4.0, doi 10.7937/DJG7-GZ87).

With ``--split``, a file that says which person is in which part, SOURCE may also hold folders of ``slices.npz`` and
``meta.json``, and every person of the file whose slices are there is laid out:

* ``mri_brain_ms_flair_t1_t2`` (Laboratory of Imaging Technologies, Ljubljana, CC BY), ``mri_limb_t1_sts`` (TCIA
  Soft-tissue-Sarcoma, CC BY 3.0), ``mri_brain_ulf_0055T_3T`` (Liu et al. 2021, CC0; the images at 3 T),
  ``mri_brain_tcia_tumour``, ``mri_prostate_tcia`` (TCIA, CC BY), ``mri_spine_sct`` (Spinal Cord Toolbox),
  ``mri_fetal_haste`` (CC0) and ``mri_phantom_acr_multivendor``.

Interpolated images hold no detail to learn: where ``hf_ratio`` is below 0.002, an image is left out.

Without ``--split``, the validation patient is ``mri_thorax_seg3d``; ``--validation`` names another one of the training
folders. The near-isotropic T1 volume is also laid out in its other two planes. In training, slices with little anatomy
are left out. Values stay as they are, in arbitrary units. With ``--ct``, a folder as ``prepare_ct_training_data.py``
makes it, MR slices drawn upon these CT slices (``mr_from_ct.py``) train as well.

To load:

    "datalist": {"_target_": "medrestore_monai.data.training_slices", "folder": OUTPUT, "part": "train"}

Nothing is downloaded.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import preparing
from mr_from_ct import mr_from_ct

from medrestore_monai.data import read_split, training_slices
from medrestore_monai.images import read_image

TRAINING = {
    "mri_brain_t1_studyforrest": "studyforrest-02",
    "mri_breast_dce": "UCSF-BR-06",
    "mri_thorax_seg3d": "seg3d-thorax",
}
TEST = {"mri_brain_t1gd_vsseg": "VS-SEG-001", "mri_abdomen_t2_cmbcrc": "CMB-CRC-MSB-06489"}
PLANES = {"z": (0, 1, 2), "x": (1, 2, 0), "y": (0, 2, 1)}
THREE_PLANES = ("mri_brain_t1_studyforrest",)
# folders of many series; a patient's name there, if the split file has another
SERIES: dict[str, dict[str, str]] = {
    "mri_brain_ms_flair_t1_t2": {},
    "mri_limb_t1_sts": {},
    "mri_brain_tcia_tumour": {},
    "mri_brain_ulf_0055T_3T": {f"P{number}": f"ulf-P{number}" for number in range(1, 5)},
    "mri_prostate_tcia": {},
    "mri_spine_sct": {
        "sub-01": "spine-sub-01",
        "sub-03": "spine-sub-03",
        "single": "spine-single",
        "t2_ms patient": "spine-t2-ms",
        "lumbar subject": "spine-lumbar",
    },
    "mri_fetal_haste": {"sub-01": "fetal-sub-01"},
    "mri_phantom_acr_multivendor": {"phantom": "phantom-acr"},
}
LEAST_DETAIL = 0.002  # hf_ratio of an image that the scanner did not interpolate
LEAST = 0.4  # of the volume's 99.9th percentile that a slice's own must reach


def planes(voxels: np.ndarray, affine: np.ndarray, folder: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Give the volume as it is and, where it is near-isotropic, sliced along its other axes."""
    for name, axes in PLANES.items():
        if name == "z" or folder in THREE_PLANES:
            yield name, voxels.transpose(axes), affine[:, [*axes, 3]]


def with_anatomy(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out the slices at the ends that are mostly background."""
    bright = np.percentile(voxels, 99.9, axis=(0, 1)) >= LEAST * np.percentile(voxels, 99.9)
    first, last = np.flatnonzero(bright)[[0, -1]]
    moved = affine.copy()
    moved[:3, 3] += first * affine[:3, 2]
    return voxels[..., first : last + 1], moved


def series(folder: Path, parts: Mapping[str, str]) -> Iterator[tuple[str, str, str, np.ndarray, np.ndarray]]:
    """Give part, patient, name, stored values ``(X, Y, Z)`` and affine of the series that hold detail."""
    for card, stored in preparing.read_stacks(folder):
        patient = SERIES[folder.name].get(card["patient"], card["patient"])
        if parts.get(patient, "unused") == "unused" or (card["hf_ratio"] or 0) < LEAST_DETAIL:
            continue
        # these slices are not neighbors; only the pixel size counts
        row, column = (card.get("pixel_mm") or card.get("voxel_mm") or (1.0, 1.0))[:2]
        yield parts[patient], patient, card["key"], stored, np.diag([-column, -row, 4.0, 1.0])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = preparing.parser(__doc__, "folder with the collections' folders")
    parser.add_argument("--validation", default="mri_thorax_seg3d", choices=TRAINING, help="(default: %(default)s)")
    parser.add_argument("--split", type=Path, help="file that says which person is in which part; takes every folder")
    parser.add_argument("--ct", type=Path, help="folder of CT slices to draw MR slices upon")
    parser.add_argument("--drawings", type=int, default=8, help="of each CT slice (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawings (default: %(default)s)")
    options = parser.parse_args(arguments)
    parts = read_split(options.split) if options.split is not None else {}
    patients = [("validation" if name == options.validation else "train", name, TRAINING[name]) for name in TRAINING]
    patients += [("test", name, patient) for name, patient in TEST.items()]
    with preparing.prepared(options.output, training_slices) as output:
        for part, folder, patient in preparing.progress(patients, "volumes"):
            volumes = sorted((options.source / folder).glob("*.nii.gz"))
            if len(volumes) != 1:
                raise ValueError(f"{options.source / folder} must hold one NIfTI volume, not {len(volumes)}.")
            part = parts.get(patient, part)
            _lay_out(volumes[0], output / part / patient, folder, part)
        for folder in (options.source / name for name in SERIES if parts):
            for part, patient, name, stored, affine in series(folder, parts) if folder.is_dir() else ():
                preparing.write_volume(output / part / patient / f"{name}.nii.gz", stored, affine)
        if options.ct is not None:
            preparing.draw_upon_ct(options.ct, output / "train", mr_from_ct, options.drawings, options.seed, parts)


def _lay_out(volume: Path, target: Path, folder: str, part: str) -> None:
    voxels, meta = read_image(volume)
    unscaled = (meta["scl_slope"], meta["scl_inter"]) == (1.0, 0.0)
    stored = voxels.astype(meta["original_dtype"] if unscaled else np.float32)
    for name, values, affine in planes(stored, meta["affine"], folder):
        if part == "train":
            values, affine = with_anatomy(values, affine)
        preparing.write_volume(target / f"{volume.name.split('.')[0]}_{name}.nii.gz", values, affine)


if __name__ == "__main__":
    preparing.run(main)
