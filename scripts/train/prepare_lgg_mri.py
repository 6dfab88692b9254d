"""Turn the brain MRI slices of the LGG segmentation data set into gray PNG files, one sub-folder a patient.

    python scripts/train/prepare_lgg_mri.py kaggle_3m data/lgg_flair

Download from https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation (Buda et al. 2019; slices of TCGA-LGG of
The Cancer Imaging Archive); the page states the licence, to our knowledge CC BY-NC-SA 4.0, so weights trained on it are
not for commercial use. A slice is a TIFF file of three gray pictures: before contrast, FLAIR, after contrast; where one
was not scanned, FLAIR stands in for it, so only FLAIR is sure to be what it says. Masks are left out. To load:

    "datalist": {"_target_": "medrestore_monai.data.training_slices", "folder": "data/lgg_flair", "part": "train"}

Nothing is downloaded.
"""

from collections.abc import Sequence

import preparing

from medrestore_monai.data import training_slices

CHANNELS = {"before": 0, "flair": 1, "after": 2}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = preparing.parser(__doc__, "folder with the patients' folders TCGA_...", split=True)
    parser.add_argument("--sequence", default="flair", choices=CHANNELS, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    paths = sorted(path for path in options.source.glob("TCGA_*/*.tif") if not path.stem.endswith("_mask"))
    if not paths:
        raise ValueError(f"{options.source} holds no slices TCGA_.../TCGA_..._1.tif.")
    # TCGA_CS_4941_19960909 is a patient and a date
    patients = {path: "_".join(path.parent.name.split("_")[:3]) for path in paths}
    parts = preparing.split_of(options).parts_of(patients.values())
    with preparing.prepared(options.output, training_slices) as output:
        for path in preparing.progress(paths, "slices"):
            picture = preparing.read_picture(path, color=True)[CHANNELS[options.sequence]]
            patient = patients[path]
            preparing.write_picture(output / parts[patient] / patient / f"{path.stem}.png", picture)


if __name__ == "__main__":
    preparing.run(main)
