"""Simulate a quarter-dose scan of the CT series that ships, restore it, and show what that did.

    python scripts/demo.py OUTPUT

The patient was not in the training data. Writes below OUTPUT: ``source``, ``quarter_dose`` and ``restored`` (DICOM
series), ``comparison.png`` and ``scores.csv``.
"""

import argparse
import csv
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import matplotlib
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from medrestore_monai.dicom import read_series
from medrestore_monai.metrics import slice_scores

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WINDOW = (-160.0, 240.0)
ARCHIVE = Path(__file__).parents[1] / "tests" / "data" / "ct_abdomen_crlm.zip"


def medrestore(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "medrestore_monai", *arguments], check=True)


def scores(image: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Mean scores over slices in the abdominal window."""
    tensors = (torch.from_numpy(x)[None, None] for x in (image, truth))
    return {name: float(values.mean()) for name, values in slice_scores(*tensors, WINDOW).items()}


def draw(images: dict[str, np.ndarray], path: Path) -> None:
    """Draw the middle slice of each image around the body, and below how it differs from the source, in HU."""
    truth = images["source"]
    middle = truth.shape[2] // 2
    body = np.argwhere(truth[..., middle] > -300)
    (left, top), (right, bottom) = body.min(axis=0), body.max(axis=0)
    shown = {name: image[left:right, top:bottom, middle].T for name, image in images.items()}
    figure, axes = plt.subplots(2, len(images), figsize=(4 * len(images), 6.6), layout="constrained")
    for (name, picture), (above, below) in zip(shown.items(), axes.T, strict=True):
        above.imshow(picture, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1])
        above.set_title(name)
        if name != "source":
            difference = below.imshow(picture - shown["source"], cmap="RdBu_r", vmin=-60, vmax=60)
            below.set_title(f"{name} minus source")
    for ax in axes.flat:
        ax.set_axis_off()
    figure.colorbar(difference, cax=axes[1, 0].inset_axes((0.75, 0.05, 0.05, 0.9)), location="left", label="HU")
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    output: Path = parser.parse_args().output
    start = time.monotonic()
    places = {name: output / name.replace(" ", "_") for name in ("source", "quarter dose", "restored")}
    for place in places.values():
        shutil.rmtree(place, ignore_errors=True)
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(places["source"])
    medrestore("degrade", str(places["source"]), "-o", str(places["quarter dose"]), "--dose", "0.25", "--seed", "1")
    medrestore("restore", str(places["quarter dose"]), "-o", str(places["restored"]))

    images = {name: read_series(place).array for name, place in places.items()}
    rows = {name: scores(images[name], images["source"]) for name in ("quarter dose", "restored")}
    table = Table("image", "PSNR (dB)", "SSIM", "RMSE (HU)", title="Against the source, window -160..240 HU")
    for name, row in rows.items():
        table.add_row(name, f"{row['psnr']:.2f}", f"{row['ssim']:.4f}", f"{row['rmse']:.2f}")
    with (output / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "psnr_db", "ssim", "rmse_hu"])
        writer.writerows([name, *row.values()] for name, row in rows.items())
    draw(images, output / "comparison.png")

    console = Console()
    console.print(table)
    console.print(f"Restored DICOM series: {places['restored']}")
    console.print(f"Picture: {output / 'comparison.png'}   scores: {output / 'scores.csv'}")
    console.print(
        f"{time.monotonic() - start:.0f} seconds. The low dose is simulated; for research, not a medical device."
    )


if __name__ == "__main__":
    main()
