"""By how much a CT bundle moves the mean HU of the body, slice by slice.

    python scripts/experiments/mean_hu.py SERIES VOLUME.nii.gz SLICES.npz --every 8
    python scripts/experiments/mean_hu.py /data/ct_abdomen_crlm/CRLM-CT-1006 --bundle my_bundle --json shifts.json

SOURCES are DICOM series (slices with gaps too), NIfTI volumes, or NumPy archives of pictures (N, rows, columns) in HU.
Every so many slices are restored by the bundle's inference.json with its own check switched off; the table shows the
shift of the mean over voxels above -500 HU, as medrestore_monai.transforms.body_mean_shift defines it.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from medrestore_monai.data import is_image_file
from medrestore_monai.dicom import read_series
from medrestore_monai.images import read_image
from medrestore_monai.restorer import restore
from medrestore_monai.transforms import body_mean_shift


def read(source: Path, every: int) -> np.ndarray:
    """Every so many slices of a source in HU, shape ``(X, Y, Z)``."""
    if source.suffix == ".npz":
        with np.load(source) as archive:
            pictures = archive[archive.files[0]][::every]
        return pictures.T.astype(np.float32)
    if is_image_file(source):
        return read_image(source)[0][..., ::every]
    series = read_series(source, modality="CT", allow_gaps=True)
    return np.concatenate([series.slab(index, index + 1) for index in range(0, series.shape[2], every)], axis=2)


def measure(volume: np.ndarray, bundle: str) -> np.ndarray:
    """The shift of every slice in HU."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = (Path(folder) / f"{name}.npy" for name in ("before", "after"))
        np.save(before, volume)
        restore(before, after, bundle, device="cpu", mean_hu="off")
        restored = np.load(after)
    return body_mean_shift(torch.from_numpy(volume)[None], torch.from_numpy(restored)[None]).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--bundle", default="ct_denoise_restore_rwkv")
    parser.add_argument("--json", type=Path, help="write the shifts here too")
    arguments = parser.parse_args()
    print("| source | slices | mean shift, HU | from | to |\n|---|---|---|---|---|")
    shifts = {}
    for source in arguments.sources:
        found = measure(read(source, arguments.every), arguments.bundle)
        print(f"| {source.name} | {found.size} | {found.mean():+.2f} | {found.min():+.2f} | {found.max():+.2f} |")
        shifts[source.name] = [round(float(shift), 3) for shift in found]
    if arguments.json:
        arguments.json.write_text(json.dumps(shifts, indent=4) + "\n")


if __name__ == "__main__":
    main()
