"""Lay MR volumes of several public collections out as training, validation and test folders, one sub-folder a patient.

    python scripts/prepare_mri_training_data.py SOURCE OUTPUT [--ct CT]

SOURCE holds the folders named in ``PARTS``, with one NIfTI volume each:

* training: ``mri_brain_t1_studyforrest`` (Hanke et al. 2014, PDDL), ``mri_breast_dce`` (TCIA Breast-MRI-NACT-Pilot,
  CC BY 3.0, doi 10.7937/K9/TCIA.2016.QHsyhJKy), ``mri_thorax_seg3d`` (University of Utah, MIT);
* test, other scanners and parts of the body: ``mri_brain_t1gd_vsseg`` (TCIA Vestibular-Schwannoma-SEG, CC BY 4.0, doi
  10.7937/TCIA.9YTJ-5Q73), ``mri_abdomen_t2_cmbcrc`` (TCIA CMB-CRC, CC BY 4.0, doi 10.7937/DJG7-GZ87).

The validation patient is ``mri_thorax_seg3d``; ``--validation`` names another one of the training folders. The
near-isotropic T1 volume is also laid out in its other two planes. In training, slices with little anatomy are left out.
Values stay as they are, in arbitrary units. With ``--ct``, a folder as ``prepare_ct_training_data.py`` makes it, MR
slices drawn upon these CT slices (``mr_from_ct.py``) train as well.

To load:

    "datalist": {"_target_": "medrestore_monai.data.training_slices", "folder": OUTPUT, "part": "train"}

Nothing is downloaded.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import preparing
from mr_from_ct import mr_from_ct

from medrestore_monai.data import training_slices
from medrestore_monai.images import read_image

TRAINING = {
    "mri_brain_t1_studyforrest": "studyforrest-02",
    "mri_breast_dce": "UCSF-BR-06",
    "mri_thorax_seg3d": "seg3d-thorax",
}
TEST = {"mri_brain_t1gd_vsseg": "VS-SEG-001", "mri_abdomen_t2_cmbcrc": "CMB-CRC-MSB-06489"}
PLANES = {"z": (0, 1, 2), "x": (1, 2, 0), "y": (0, 2, 1)}
THREE_PLANES = ("mri_brain_t1_studyforrest",)
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = preparing.parser(__doc__, "folder with the collections' folders")
    parser.add_argument("--validation", default="mri_thorax_seg3d", choices=TRAINING, help="(default: %(default)s)")
    parser.add_argument("--ct", type=Path, help="folder of CT slices to draw MR slices upon")
    parser.add_argument("--drawings", type=int, default=8, help="of each CT slice (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawings (default: %(default)s)")
    options = parser.parse_args(arguments)
    patients = [("validation" if name == options.validation else "train", name, TRAINING[name]) for name in TRAINING]
    patients += [("test", name, patient) for name, patient in TEST.items()]
    with preparing.prepared(options.output, training_slices) as output:
        for part, folder, patient in preparing.progress(patients, "volumes"):
            volumes = sorted((options.source / folder).glob("*.nii.gz"))
            if len(volumes) != 1:
                raise ValueError(f"{options.source / folder} must hold one NIfTI volume, not {len(volumes)}.")
            _lay_out(volumes[0], output / part / patient, folder, part)
        if options.ct is not None:
            preparing.draw_upon_ct(options.ct, output / "train", mr_from_ct, options.drawings, options.seed)


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
