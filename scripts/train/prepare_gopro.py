"""Lay the blurred and sharp pictures of GoPro out as folders ``LQ`` and ``HQ``.

    python scripts/train/prepare_gopro.py GOPRO_Large data/gopro

Download and unpack GOPRO_Large from https://seungjunnah.github.io/Datasets/gopro (Nah et al., CVPR 2017), under
CC BY 4.0. The pictures get second names (hard links) where the file system can do so, else they are copied.
The data set also loads as it is:

    "datalist": {"_target_": "medrestore_monai.data.gopro", "folder": "GOPRO_Large", "part": "train"}

and OUTPUT by

    "datalist": {"_target_": "medrestore_monai.data.paired_folders", "folder": "data/gopro", "part": "train"}

Nothing is downloaded.
"""

from collections.abc import Sequence

import preparing

from medrestore_monai.data import PatientSplit, gopro, paired_folders


def main(arguments: Sequence[str] | None = None) -> None:
    parser = preparing.parser(__doc__, "folder with train/<scene>/blur and sharp, and test likewise")
    parser.add_argument("--blurred", default="blur", help="blur or blur_gamma (default: %(default)s)")
    options = parser.parse_args(arguments)
    whole = PatientSplit(validation=0)
    with preparing.prepared(options.output, paired_folders) as output:
        for part in ("train", "test"):
            pairs = gopro(options.source, part, options.blurred, whole)
            preparing.put_pairs(pairs, output / part)


if __name__ == "__main__":
    preparing.run(main)
