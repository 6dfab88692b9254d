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
    """Draw the middle slice of each image, and below what differs from the source, in HU."""
    figure, axes = plt.subplots(2, len(images), figsize=(4 * len(images), 8.4), layout="constrained")
    truth = images["source"]
    middle = truth.shape[2] // 2
    for (name, image), (above, below) in zip(images.items(), axes.T, strict=True):
        above.imshow(image[..., middle].T, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1])
        above.set_title(name)
        shown = below.imshow((image - truth)[..., middle].T, cmap="RdBu_r", vmin=-100, vmax=100)
        below.set_title(f"{name} minus source")
    for ax in axes.flat:
        ax.set_axis_off()
    figure.colorbar(shown, ax=axes[1, :], shrink=0.7, label="HU")
    figure.savefig(path, dpi=100)


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
