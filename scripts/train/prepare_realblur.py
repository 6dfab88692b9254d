"""Lay the blurred and sharp pictures of RealBlur out as folders ``LQ`` and ``HQ``.

    python scripts/train/prepare_realblur.py RealBlur data/realblur_j

Download and unpack RealBlur.tar.gz from https://cg.postech.ac.kr/research/realblur/ (Rim et al., ECCV 2020), and lay
the list files ``RealBlur_J_train_list.txt``, ... of that page beside its folders; the page states the licence. The
pictures get second names (hard links) where the file system can do so, else they are copied. It also loads as it is:

    "datalist": {"_target_": "medrestore_monai.data.realblur", "folder": "RealBlur", "part": "train", "subset": "J"}

and OUTPUT by

    "datalist": {"_target_": "medrestore_monai.data.paired_folders", "folder": "data/realblur_j", "part": "train"}

Nothing is downloaded.
"""

from collections.abc import Sequence

import preparing

from medrestore_monai.data import PatientSplit, paired_folders, realblur


def main(arguments: Sequence[str] | None = None) -> None:
    parser = preparing.parser(__doc__, "folder with the list files")
    parser.add_argument("--subset", default="J", choices=["J", "R"], help="camera pictures or raw (default: J)")
    options = parser.parse_args(arguments)
    with preparing.prepared(options.output, paired_folders) as output:
        for part in ("train", "test"):
            pairs = realblur(options.source, part, options.subset, PatientSplit(validation=0))
            preparing.put_pairs(pairs, output / part)


if __name__ == "__main__":
    preparing.run(main)
