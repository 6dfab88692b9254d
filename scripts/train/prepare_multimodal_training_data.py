"""Lay pictures of microscopy, X-ray, CT and MR out as training, validation and test folders, for MedDeblur.

    python scripts/train/prepare_multimodal_training_data.py SOURCE OUTPUT
    python scripts/train/prepare_multimodal_training_data.py SOURCE OUTPUT --side 128 --test-only

SOURCE holds the collections of ``prepare_rgb_training_data.py`` (microscopy, X-ray) and of
``prepare_mri_training_data.py`` (MR, with their validation and test volumes), and ``ct_lung_tcga`` (CT slices of 40
patients of TCGA-LUAD and TCGA-LUSC, CC BY 3.0); the licences of the others are named there. All become 8 bit PNG, as
the paper's pictures are, gray where they are gray:

* CT in the soft tissue window, -160 to 240 HU, and in training also from -1024 to 1024 HU;
* MR from 0 to the volume's 99.9th percentile, at most ``--slices`` of each volume, evenly spread;
* X-ray thumbnails enlarged four times, to 112x112, by cubic splines: they hold no finer detail.

A folder of OUTPUT is one patient of one modality, ``ct_TCGA-17-Z013``; microscopy is divided image by image. ``--side``
scales every picture, for tests at the paper's 128x128.

More to train on, while validation and test stay as they are: ``--ct`` and ``--mr`` name folders that
``prepare_ct_training_data.py`` and ``prepare_mri_training_data.py`` made with ``--split``. Of these, the people who
train and are not among those above are taken, windowed alike. ``--fluorescence`` takes CellProfiler's pictures
(``prepare_rgb_training_data.py``). To load:

    "datalist": {"_target_": "medrestore_monai.data.training_slices", "folder": OUTPUT, "part": "train"}

Nothing is downloaded.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import prepare_mri_training_data as mri
import preparing
from PIL import Image
from prepare_rgb_training_data import fluorescence, pictures

from medrestore_monai.data import PatientSplit, training_slices
from medrestore_monai.images import read_image

CT = "ct_lung_tcga"
SOFT, WIDE = (-160.0, 240.0), (-1024.0, 1024.0)  # HU
ENLARGED = 4  # X-ray thumbnails
Named = tuple[str, str, str, np.ndarray]


def gray_levels(values: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Scale a window to 0..255 and round."""
    return np.rint(np.clip((values - lower) / (upper - lower), 0, 1) * 255).astype(np.uint8)


def resized(picture: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Scale ``(X, Y)`` or ``(3, X, Y)`` by Pillow's cubic splines, which average where they shrink."""
    image = Image.fromarray(np.ascontiguousarray(picture.T))
    return np.asarray(image.resize((size[0], size[1]), Image.Resampling.BICUBIC)).T


def microscopy_and_xray(source: Path, xray: int, seed: int) -> Iterator[Named]:
    """Give collection, group that stays in one part, name and pixels."""
    for collection, group, name, picture in pictures(source, xray, seed):
        pixels = preparing.read_picture(picture, color=True) if isinstance(picture, Path) else picture
        pixels = pixels.astype(np.uint8)
        if (pixels == pixels[:1]).all():
            pixels = pixels[0]
        if collection == "xray":
            pixels = resized(pixels, [ENLARGED * side for side in pixels.shape])
        yield collection, group, name, pixels


def ct(source: Path) -> Iterator[Named]:
    """Give ``soft`` or ``wide``, patient, name and pixels."""
    slices = np.load(source / CT / "ct_slices.npz")
    cards = json.loads((source / CT / "meta.json").read_text(encoding="utf-8"))
    scaling = zip(slices["rescale_slope"], slices["rescale_intercept"], strict=True)
    for number, (card, stored, (slope, intercept)) in enumerate(zip(cards, slices["stored"], scaling, strict=True)):
        hu = stored.T.astype(np.float64) * float(slope) + float(intercept)
        for name, window in (("soft", SOFT), ("wide", WIDE)):
            yield name, card["patient"], f"slice{number:03d}_{name}", gray_levels(hu, *window)


def mr(source: Path, slices: int) -> Iterator[Named]:
    """Give the part, patient, name and pixels of evenly spread slices."""
    patients = [("validation" if n == "mri_thorax_seg3d" else "train", n, p) for n, p in mri.TRAINING.items()]
    for part, folder, patient in [*patients, *(("test", name, patient) for name, patient in mri.TEST.items())]:
        volumes = sorted((source / folder).glob("*.nii.gz"))
        if len(volumes) != 1:
            raise ValueError(f"{source / folder} must hold one NIfTI volume, not {len(volumes)}.")
        voxels, meta = read_image(volumes[0])
        upper = float(np.percentile(voxels, 99.9))
        voxels, _ = mri.with_anatomy(voxels, meta["affine"])
        chosen = np.unique(np.linspace(0, voxels.shape[2] - 1, slices).round().astype(int))
        for number in chosen.tolist():
            yield part, patient, f"slice{number:03d}", gray_levels(voxels[..., number], 0, upper)


def more_people(folder: Path, slices: int) -> Iterator[tuple[str, str, np.ndarray]]:
    """Give patient, name and values of evenly spread slices of the volumes that train.

    Raises:
        ValueError: there are none.
    """
    paths = [path for path in sorted((folder / "train").glob("*/*.nii.gz")) if not path.parent.name.startswith("upon_")]
    if not paths:
        raise ValueError(f"{folder} holds no train/PATIENT/NAME.nii.gz: make it with --split.")
    for path in paths:
        voxels, _ = read_image(path)
        stack = voxels.reshape(*voxels.shape[:2], -1)
        for number in np.unique(np.linspace(0, stack.shape[2] - 1, slices).round().astype(int)).tolist():
            yield path.parent.name, f"{path.name.removesuffix('.nii.gz')}_{number:03d}", stack[..., number]


def more(options: argparse.Namespace) -> Iterator[Named]:
    """Give part, folder, name and pixels of what only trains."""
    if options.ct is not None:
        for patient, name, hu in more_people(options.ct, options.slices):
            yield "train", f"ct_{patient}", f"{name}_soft", gray_levels(hu, *SOFT)
            yield "train", f"ct_{patient}", f"{name}_wide", gray_levels(hu, *WIDE)
    if options.mr is not None:
        for patient, name, values in more_people(options.mr, options.slices):
            yield "train", f"mr_{patient}", name, gray_levels(values, 0, float(np.percentile(values, 99.9)) or 1.0)
    for name, pixels in fluorescence(options.source) if options.fluorescence else ():
        gray = pixels[0] if (pixels == pixels[:1]).all() else pixels
        yield "train", f"fluorescence_{name}", name, gray.astype(np.uint8)


def lay_out(options: argparse.Namespace) -> Iterator[Named]:
    """Give part, folder, name and pixels of every picture."""
    split: PatientSplit = preparing.split_of(options)
    found = list(microscopy_and_xray(options.source, options.xray, options.seed))
    for collection in dict.fromkeys(one[0] for one in found):
        parts = split.parts_of(group for one, group, *_ in found if one == collection)
        for one, group, name, pixels in found:
            if one == collection:
                yield parts[group], f"{collection}_{group}", name, pixels
    slices = list(ct(options.source))
    parts = split.parts_of(patient for _, patient, *_ in slices)
    for window, patient, name, pixels in slices:
        if window == "soft" or parts[patient] == "train":
            yield parts[patient], f"ct_{patient}", name, pixels
    for part, patient, name, pixels in mr(options.source, options.slices):
        yield part, f"mr_{patient}", name, pixels


def main(arguments: Sequence[str] | None = None) -> None:
    parser = preparing.parser(__doc__, "folder with the collections' folders", split=True)
    parser.add_argument("--xray", type=int, default=100, help="number of X-ray thumbnails (default: %(default)s)")
    parser.add_argument("--slices", type=int, default=24, help="most of each MR volume (default: %(default)s)")
    parser.add_argument("--ct", type=Path, help="folder of CT by part, whose other people train, too")
    parser.add_argument("--mr", type=Path, help="folder of MR by part, whose other people train, too")
    parser.add_argument("--fluorescence", action="store_true", help="train on CellProfiler's pictures, too")
    parser.add_argument("--side", type=int, help="scale every picture to this side")
    parser.add_argument("--test-only", action="store_true", help="lay out the test part only")
    options = parser.parse_args(arguments)
    found = list(lay_out(options))
    known = {folder for _, folder, *_ in found}
    found += [one for one in more(options) if one[1] not in known]
    with preparing.prepared(options.output, training_slices) as output:
        for part, folder, name, pixels in preparing.progress(found, "pictures"):
            if part == "test" or not options.test_only:
                sized = resized(pixels, [options.side] * 2) if options.side else pixels
                preparing.write_picture(output / part / folder / f"{name}.png", sized)


if __name__ == "__main__":
    preparing.run(main)
