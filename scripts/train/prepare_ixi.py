"""Divide the brain volumes of IXI into training, validation and test folders, one sub-folder a patient.

    python scripts/train/prepare_ixi.py IXI-T2 data/ixi_t2 --validation 59 --test 114

Download and unpack IXI-T2.tar (or T1, PD, MRA) from https://brain-development.org/ixi-dataset/; its licence is
CC BY-SA 3.0: name the source. The volumes get second names (hard links) where the file system can do so, else they are
copied; none is changed. Restore-RWKV divides the 578 T2 volumes into 405, 59 and 114, and takes the central 100 slices:

    "datalist": {"_target_": "medrestore_monai.data.ixi", "folder": "data/ixi_t2", "part": "train", "slices": 100}

Nothing is downloaded.
"""

from collections.abc import Sequence
from pathlib import Path

import preparing

from medrestore_monai.data import ixi


def main(arguments: Sequence[str] | None = None) -> None:
    parser = preparing.parser(__doc__, "folder with IXI...-T2.nii.gz", split=True)
    parser.add_argument("--contrast", default="T2", help="T1, T2, PD or MRA (default: %(default)s)")
    options = parser.parse_args(arguments)
    volumes = ixi(options.source, "all", options.contrast, slices=1)
    parts = preparing.split_of(options).parts_of(item["patient"] for item in volumes)
    with preparing.prepared(options.output, lambda folder, part: ixi(folder, part, options.contrast)) as output:
        for item in preparing.progress(volumes, "volumes"):
            volume = Path(item["label"])
            preparing.put(volume, output / parts[item["patient"]] / item["patient"] / volume.name)


if __name__ == "__main__":
    preparing.run(main)
