"""Turn an archive of MedMNIST, such as PathMNIST, into PNG files in training, validation and test folders.

    python scripts/train/prepare_medmnist.py pathmnist.npz data/pathmnist

Download from https://medmnist.com/ (https://doi.org/10.5281/zenodo.10519652); MedMNIST is under CC BY 4.0, but for
DermaMNIST (CC BY-NC 4.0). The archives also load as they are, which is simpler where they fit into memory:

    "datalist": {"_target_": "medrestore_monai.data.medmnist", "path": "pathmnist.npz", "part": "train"}

Files are for the large ones (``pathmnist_224.npz`` takes 13 GB in every process), to load by

    "datalist": {"_target_": "medrestore_monai.data.training_slices", "folder": "data/pathmnist", "part": "train"}

Nothing is downloaded.
"""

from collections.abc import Sequence

import preparing

from medrestore_monai.data import medmnist, training_slices
from medrestore_monai.images import read_picture_set


def main(arguments: Sequence[str] | None = None) -> None:
    options = preparing.parser(__doc__, "the .npz file").parse_args(arguments)
    items = medmnist(options.source, "all")
    arrays = {item["array"]: item["name"].split("/")[1] for item in items}
    with preparing.prepared(options.output, training_slices) as output:
        for array, part in arrays.items():
            pictures = read_picture_set(options.source, array)
            for number in preparing.progress(range(len(pictures)), part):
                preparing.write_picture(output / part / f"{number:06d}.png", pictures[number].T)


if __name__ == "__main__":
    preparing.run(main)
