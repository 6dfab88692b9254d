"""Score a bundle on real pairs of quarter-dose and full-dose CT slices, per reconstruction kernel.

    python scripts/experiments/evaluate_ct_pairs.py PAIRS OUTPUT [--weights FILE] [--self-ensemble 8]

PAIRS holds ``<patient>/quarter_<kernel>/*`` and ``<patient>/full_<kernel>/*`` with equal file names, as in the AAPM low
dose challenge. Each quarter-dose folder is restored to ``OUTPUT/<patient>/<kernel>`` as a derived DICOM series; what is
read back from there is scored slice by slice in the window [-160, 240] HU, data range 400. The HU shift is the mean of
restored minus full dose over flat soft tissue.

"Knowing all but noise" is an estimate of the best that any method can reach, as a full-dose slice has noise of its own:
in flat soft tissue, the part of the full-dose noise that cannot be distinguished from the quarter-dose noise, against
their difference.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.ndimage import binary_erosion, gaussian_filter, gaussian_gradient_magnitude

from medrestore_monai import Restorer
from medrestore_monai.dicom import read_series
from medrestore_monai.metrics import slice_scores

WINDOW = (-160.0, 240.0)


def flat_tissue(hu: np.ndarray) -> np.ndarray:
    """Mark soft tissue (-100..200 HU) at least 5 pixels from any edge, in a slice ``(X, Y)``."""
    smooth = gaussian_filter(hu, 3)
    flat = (smooth > -100) & (smooth < 200) & (gaussian_gradient_magnitude(hu, 5) < 3)
    return binary_erosion(flat, iterations=5)


def attainable_gain(quarter: np.ndarray, full: np.ndarray) -> float:
    """PSNR in dB that the best linear estimate gains which knows the slice without noise; slices ``(X, Y)`` in HU."""
    flat = flat_tissue(full)
    noise = [(image - gaussian_filter(image, 2))[flat] for image in (quarter, full)]
    (before, shared), (_, after) = np.cov(noise)
    return float(10 * np.log10((before + after - 2 * shared) / (after - shared**2 / before)))


def score(image: np.ndarray, truth: np.ndarray) -> list[list[float]]:
    """Return PSNR, SSIM, RMSE and HU shift of every slice of two volumes ``(X, Y, Z)``."""
    scores = slice_scores(torch.from_numpy(image)[None, None], torch.from_numpy(truth)[None, None], WINDOW)
    rows = []
    for number in range(truth.shape[2]):
        flat = flat_tissue(truth[..., number])
        shift = float((image - truth)[..., number][flat].mean())
        rows.append([*(float(scores[name].flatten()[number]) for name in ("psnr", "ssim", "rmse")), shift])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--bundle", default="ct_denoise_restore_rwkv")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--self-ensemble", type=int, default=1)
    options = parser.parse_args()
    restorer = Restorer(options.bundle, precision=options.precision, weights=options.weights)
    rows: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    gains: dict[str, list[float]] = defaultdict(list)
    for quarter in sorted(options.pairs.glob("*/quarter_*")):
        kernel = quarter.name.removeprefix("quarter_")
        target = options.output / quarter.parent.name / kernel
        options_of_call = {"allow_gaps": True, "self_ensemble": options.self_ensemble}
        restorer.restore_file(quarter, target, overwrite=True, progress=True, **options_of_call)
        places = quarter, target, quarter.with_name(f"full_{kernel}")
        given, restored, truth = (read_series(place, allow_gaps=True).array for place in places)
        for name in (kernel, "all"):
            gains[name] += [attainable_gain(given[..., z], truth[..., z]) for z in range(truth.shape[2])]
        for name, image in (("quarter dose", given), ("restored", restored)):
            scores = score(image, truth)
            rows[kernel, name] += scores
            rows["all", name] += scores
    table = Table("kernel", "image", "slices", "PSNR (dB)", "SSIM", "RMSE (HU)", "mean shift", "largest shift (HU)")
    for (kernel, name), scores in sorted(rows.items()):
        psnr, ssim, rmse, shift = np.mean(scores, axis=0)
        largest = np.abs(np.array(scores)[:, 3]).max()
        cells = f"{psnr:.2f}", f"{ssim:.4f}", f"{rmse:.2f}", f"{shift:+.2f}", f"{largest:.2f}"
        table.add_row(kernel, name, str(len(scores)), *cells)
        if name == "quarter dose":
            table.add_row(kernel, "knowing all but noise", str(len(scores)), f"{psnr + np.mean(gains[kernel]):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
