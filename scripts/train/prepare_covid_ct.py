"""Turn the CT pictures of COVID-CT into gray PNG files in training, validation and test folders.

    python scripts/train/prepare_covid_ct.py COVID-CT data/covid_ct

Clone https://github.com/UCSD-AI4H/COVID-CT and unpack Images-processed/CT_COVID.zip and CT_NonCOVID.zip anywhere in it;
the division is that of its folder Data-split, by patient. The pictures are taken from publications: gray levels, not
HU, of very different quality. The repository states the terms; check them, and those of the publications, before
weights trained on them are passed on. Zhao et al., COVID-CT-Dataset, arXiv:2003.13865. To load:

    "datalist": {"_target_": "medrestore_monai.data.training_slices", "folder": "data/covid_ct", "part": "train"}

Nothing is downloaded.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import preparing
from PIL import Image, UnidentifiedImageError

from medrestore_monai.data import training_slices

LISTS = {"train": "trainCT_{}.txt", "validation": "valCT_{}.txt", "test": "testCT_{}.txt"}
CLASSES = ("COVID", "NonCOVID")


def listed(source: Path, part: str, name: str) -> list[Path]:
    """The pictures of one class that the list of one part names."""
    folders = [path for path in sorted(source.rglob(f"CT_{name}")) if path.is_dir()]
    if not folders:
        raise ValueError(f"{source} holds no folder CT_{name}: unpack CT_{name}.zip there.")
    lists = sorted(source.rglob(LISTS[part].format(name)))
    if not lists:
        raise ValueError(f"{source} holds no list {LISTS[part].format(name)}.")
    pictures = [folders[0] / line.strip() for line in lists[0].read_text(encoding="utf-8").splitlines() if line.strip()]
    missing = [path.name for path in pictures if not path.is_file()]
    if missing:
        raise ValueError(f"{folders[0]} lacks {len(missing)} pictures of {lists[0].name}: {', '.join(missing[:20])}.")
    return pictures


def main(arguments: Sequence[str] | None = None) -> None:
    options = preparing.parser(__doc__, "the cloned repository, archives unpacked").parse_args(arguments)
    with preparing.prepared(options.output, training_slices) as output:
        for part in LISTS:
            for name in CLASSES:
                for path in preparing.progress(listed(options.source, part, name), f"{part}, {name}"):
                    try:
                        gray = np.asarray(Image.open(path).convert("L"))
                    except (UnidentifiedImageError, OSError) as error:
                        raise ValueError(f"{path} cannot be read: {error}.") from error
                    preparing.write_picture(output / part / f"{name}_{path.name}.png", gray.T)


if __name__ == "__main__":
    preparing.run(main)
