"""Simulate a quarter-dose scan of the CT series that ships, restore it, and score both against the source."""

import csv
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from medrestore_monai.degrader import degrade
from medrestore_monai.dicom import read_series
from medrestore_monai.files import atomic_folder, require_writable
from medrestore_monai.metrics import body_mask, slice_scores
from medrestore_monai.report.pictures import draw_panels
from medrestore_monai.restorer import restore

ARCHIVE = Path(__file__).with_name("ct_abdomen_crlm.zip")
WINDOW = (-160.0, 240.0)  # HU, of abdominal soft tissue
PICTURE, SCORES = "comparison.png", "scores.csv"


def run_demo(
    output: str | os.PathLike[str], overwrite: bool = False, progress: bool = False
) -> dict[str, dict[str, float]]:
    """Restore the series that ships, from a simulated quarter of its dose; nothing is downloaded.

    Args:
        output: new folder, with ``source``, ``quarter_dose`` and ``restored`` (DICOM series), ``comparison.png`` and
            ``scores.csv`` when all is done.
        overwrite: replace an earlier demonstration.
        progress: show progress bars over slices on the standard error stream.

    Returns:
        PSNR in dB, SSIM and RMSE in HU of ``quarter dose`` and ``restored``, means over slices inside the window.

    Raises:
        FileExistsError: there is something at ``output``, and not ``overwrite``, or it is no demonstration.
        OSError: nothing can be written.
        RuntimeError: the series that ships is not installed.
    """
    output = Path(output)
    check_demo(output, overwrite)
    with atomic_folder(output, overwrite) as folder:
        places = {name: folder / name.replace(" ", "_") for name in ("source", "quarter dose", "restored")}
        with zipfile.ZipFile(ARCHIVE) as archive:
            archive.extractall(places["source"])
        degrade(places["source"], places["quarter dose"], "ct_low_dose", seed=1, progress=progress, dose=0.25)
        restore(places["quarter dose"], places["restored"], progress=progress)
        images = {name: read_series(place).array for name, place in places.items()}
        scores = {name: _scores(images[name], images["source"]) for name in ("quarter dose", "restored")}
        _write_scores(scores, folder / SCORES)
        _draw(images, folder / PICTURE)
    return scores


def check_demo(output: Path, overwrite: bool = False) -> None:
    """Refuse a folder that the demonstration must not replace; arguments and errors as in :func:`run_demo`."""
    if not ARCHIVE.is_file():
        raise RuntimeError(f"the series of the demonstration, {ARCHIVE}, is missing: install medrestore-monai again.")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; `overwrite` replaces it.")
    if output.exists() and not all((output / name).is_file() for name in (PICTURE, SCORES)):
        raise FileExistsError(f"{output} is no earlier demonstration, and stays; name another folder.")
    require_writable(output)


def _scores(image: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Mean scores over slices."""
    scored = slice_scores(torch.from_numpy(image)[None, None], torch.from_numpy(truth)[None, None], WINDOW)
    return {name: float(values.mean()) for name, values in scored.items()}


def _write_scores(scores: Mapping[str, Mapping[str, float]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "psnr_db", "ssim", "rmse_hu"])
        writer.writerows([name, *(f"{value:.4f}" for value in row.values())] for name, row in scores.items())


def _draw(images: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw the middle slice of each image around the body, and the error of the restored one."""
    middle = images["source"].shape[2] // 2
    body = np.argwhere(body_mask(images["source"][..., middle]))
    (left, top), (right, bottom) = body.min(axis=0), body.max(axis=0) + 1
    shown = {name: torch.from_numpy(array[None, left:right, top:bottom, middle]) for name, array in images.items()}
    draw_panels(path, shown, "source", "restored", WINDOW, "HU")
