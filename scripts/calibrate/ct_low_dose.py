"""Compare the CT low-dose simulations with real quarter-dose pairs: noise level, place, spectrum, direction.

The difference of a real pair (quarter dose minus full dose) is the noise that a lower dose adds. Both simulations get
the full-dose slice only: the noise level is estimated from it, the kernel is the one of the header. Prints a table,
draws the spectra. The two kernel cutoffs are fitted on patient L143 alone (``--fit``); L192 is the check. Other
settings (estimator, spectral edge and floor) were chosen with both patients in view.

    python scripts/calibrate/ct_low_dose.py --data DATA --plot low_dose_simulation.png
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from medrestore_monai.transforms.ct.low_dose import CTLowDose, insert_ct_noise
from medrestore_monai.transforms.ct.noise import (
    SHARP_CUTOFF,
    SOFT_CUTOFF,
    ct_noise_map,
    estimate_ct_noise,
    total_noise_std,
)
from medrestore_monai.transforms.ct.scan import matched_scan, simulate_ct_low_dose

DOSE = 0.25
CUTOFFS = {"B30f": SOFT_CUTOFF, "D45f": SHARP_CUTOFF}
FIT_CUTOFFS = (0.35, 0.37, 0.39, 0.41, 0.43, 0.45, 0.5, 0.8, 1.2, 1.6, 2.0, 2.5, 3.0, 4.0, 6.0)
BLOCK, TILE = 32, 64  # pixels: for the local noise level, for the spectrum


@dataclass
class Measured:
    """Block-wise noise levels and summed power spectra of one kind of noise."""

    levels: list[np.ndarray] = field(default_factory=list)
    power: np.ndarray = field(default_factory=lambda: np.zeros((TILE, TILE)))

    def add(self, noise: np.ndarray, inside: np.ndarray, body: np.ndarray) -> None:
        """Take in one slice; ``inside`` is soft tissue, for the level, ``body`` all tissue, for the spectrum."""
        self.levels.append(np.array([noise[b].std() for b in blocks(inside, BLOCK)]))
        window = np.outer(np.hanning(TILE), np.hanning(TILE))
        for block in blocks(body, TILE):
            tile = noise[block] - noise[block].mean()
            self.power += np.abs(np.fft.fft2(tile / tile.std() * window)) ** 2

    def radial(self, spacing: float) -> tuple[np.ndarray, np.ndarray]:
        """Frequencies in cycles/mm and the radial mean of the spectrum, scaled to sum 1."""
        frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(TILE), np.fft.fftfreq(TILE)))
        rings = np.round(frequency * TILE).astype(int)
        profile = (np.bincount(rings.ravel(), self.power.ravel()) / np.bincount(rings.ravel()))[: int(TILE * 0.7)]
        return np.arange(len(profile)) / TILE / spacing, profile / profile.sum()

    def mean_frequency(self, spacing: float) -> float:
        """Power-weighted mean frequency in cycles/mm."""
        frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(TILE), np.fft.fftfreq(TILE)))
        return float((self.power * frequency).sum() / self.power.sum() / spacing)

    def directions(self) -> np.ndarray:
        """Power in six directions, relative to their mean."""
        fx, fy = np.meshgrid(np.fft.fftfreq(TILE), np.fft.fftfreq(TILE), indexing="ij")
        band = (np.hypot(fx, fy) > 0.05) & (np.hypot(fx, fy) < 0.35)
        angle = np.rad2deg(np.arctan2(fy, fx)) % 180
        gap = [np.abs((angle - center + 90) % 180 - 90) for center in range(0, 180, 30)]
        power = np.array([self.power[band & (g < 15)].mean() for g in gap])
        return power / power.mean()


def blocks(mask: np.ndarray, size: int) -> list[tuple[slice, slice]]:
    """Half-overlapping squares that lie in the mask to 90 %."""
    starts = [range(0, side - size + 1, size // 2) for side in mask.shape]
    squares = [(slice(x, x + size), slice(y, y + size)) for x in starts[0] for y in starts[1]]
    return [square for square in squares if mask[square].mean() > 0.9]


def read_hu(path: Path) -> tuple[torch.Tensor, float, str]:
    import pydicom

    dataset = pydicom.dcmread(path)
    hu = dataset.pixel_array.astype(np.float32) * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    return torch.from_numpy(hu.T.copy())[None], float(dataset.PixelSpacing[0]), str(dataset.ConvolutionKernel)


def compare_pairs(folder: Path, exact_slices: int) -> tuple[dict[str, Measured], float, str, list[tuple[float, float]]]:
    """Real, fast and exact noise of the pairs of one full-dose folder."""
    from scipy.ndimage import gaussian_filter

    measured = {name: Measured() for name in ("real", "fast", "exact")}
    estimates = []
    paths = sorted(folder.glob("*.IMA"))
    middle = len(paths) // 2
    for index, path in enumerate(paths[middle:] + paths[:middle]):
        full, spacing, kernel = read_hu(path)
        quarter, _, _ = read_hu(Path(str(path).replace("full_", "quarter_")))
        noise_map = ct_noise_map(full, spacing)
        noise = estimate_ct_noise(full, spacing, noise_map)
        smooth = gaussian_filter(full[0].numpy(), 3)
        inside, body = (smooth > -100) & (smooth < 200), smooth > -200
        fast, _ = insert_ct_noise(
            full, noise_map * noise.scale, CUTOFFS[kernel], spacing, CTLowDose(DOSE, seed=index), lower=None
        )
        measured["real"].add((quarter - full)[0].numpy(), inside, body)
        measured["fast"].add((fast - full)[0].numpy(), inside, body)
        if index < exact_slices:
            scan = matched_scan(replace(noise, cutoff=CUTOFFS[kernel]), spacing)
            exact = simulate_ct_low_dose(full, DOSE, scan, np.random.RandomState(index))
            measured["exact"].add((exact - full)[0].numpy(), inside, body)
        estimates.append((noise.std, noise.cutoff))
    return measured, spacing, kernel, estimates


def report(name: str, measured: dict[str, Measured], spacing: float, estimates: list[tuple[float, float]]) -> None:
    frequency, real = measured["real"].radial(spacing)
    stds = np.array(estimates)
    print(f"\n{name}, {len(estimates)} slices, {spacing:.3f} mm; estimate on the full-dose slices: ", end="")
    print(f"{stds[:, 0].mean():.1f} HU, cutoff {np.median(stds[:, 1]):.2f} cycles/mm")
    print("         std HU  ratio per slice: mean  min  max   in blocks: corr   NPS peak  mean f  corr  directions")
    for kind, noise in measured.items():
        if not noise.levels:
            continue
        pairs = list(zip(noise.levels, measured["real"].levels, strict=False))
        ratio = np.array([np.median(ours / theirs) for ours, theirs in pairs])
        corr = np.mean([np.corrcoef(ours, theirs)[0, 1] for ours, theirs in pairs])
        _, profile = noise.radial(spacing)
        same = np.corrcoef(profile, real)[0, 1]
        print(
            f"  {kind:6s} {np.median(np.concatenate(noise.levels)):6.1f}"
            f"  {ratio.mean():21.3f} {ratio.min():5.2f} {ratio.max():4.2f} {corr:17.2f}"
            f"   {frequency[profile.argmax()]:8.3f} {noise.mean_frequency(spacing):7.3f} {same:5.3f} ",
            np.round(noise.directions(), 2),
        )


def plot(results: dict[str, tuple[dict[str, Measured], float]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(results), figsize=(3.2 * len(results), 5.6), squeeze=False)
    for column, (name, (measured, spacing)) in enumerate(results.items()):
        for kind, style in (("real", "k-"), ("exact", "C0--"), ("fast", "C1-")):
            if measured[kind].levels:
                axes[0, column].plot(*measured[kind].radial(spacing), style, label=kind)
        axes[0, column].set(title=name, xlabel="cycles/mm", yticks=[])
        theirs = np.concatenate(measured["real"].levels)
        axes[1, column].plot(theirs, np.concatenate(measured["fast"].levels), "C1.", markersize=1)
        axes[1, column].axline((0, 0), slope=1, color="k", linewidth=0.8)
        axes[1, column].set(xlabel="real noise, HU", xlim=(0, np.percentile(theirs, 99) * 1.2))
        axes[1, column].set_ylim(axes[1, column].get_xlim())
    axes[0, 0].set_ylabel("noise power spectrum")
    axes[1, 0].set_ylabel("simulated (fast) noise, HU")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def fit_cutoff(folder: Path) -> None:
    """Correlation of the fast simulation's spectrum with the real one for a row of cutoffs; for the fitting patient."""
    real, fast = Measured(), {cutoff: Measured() for cutoff in FIT_CUTOFFS}
    for index, path in enumerate(sorted(folder.glob("*.IMA"))):
        full, spacing, kernel = read_hu(path)
        quarter, _, _ = read_hu(Path(str(path).replace("full_", "quarter_")))
        body = full[0].numpy() > -300
        noise_map = ct_noise_map(full, spacing)
        real.add((quarter - full)[0].numpy(), body, body)
        for cutoff, measured in fast.items():
            scan = CTLowDose(DOSE, seed=index)
            low_dose, _ = insert_ct_noise(full, noise_map, cutoff, spacing, scan, lower=None)
            measured.add((low_dose - full)[0].numpy(), body, body)
    _, profile = real.radial(spacing)
    same = {cutoff: np.corrcoef(m.radial(spacing)[1], profile)[0, 1] for cutoff, m in fast.items()}
    print(f"{kernel}: best {max(same, key=lambda c: same[c])} of", {c: round(float(r), 4) for c, r in same.items()})


def report_phantom(path: Path) -> None:
    """From the 100 % scans of a phantom to 55 % and 10 %: standard deviation in the middle."""
    arrays = np.load(path)
    middle = slice(96, 160)
    print("\nLow-contrast phantom, standard deviation in the middle, HU: dose, real, simulated from 100 %")
    for percent in (55, 10):
        real = (
            arrays[f"dose_{percent:03d}_signal_absent"].astype(np.float32)[:, middle, middle].std(axis=0, ddof=1).mean()
        )
        images = []
        for seed, stored in enumerate(arrays["dose_100_signal_absent"].astype(np.float32) - 1000):
            hu = torch.from_numpy(stored)[None]
            noise_map = ct_noise_map(hu, 0.75)
            noise = estimate_ct_noise(hu, 0.75, noise_map)
            scan = CTLowDose(percent / 100, seed=seed)
            images.append(insert_ct_noise(hu, noise_map * noise.scale, noise.cutoff, 0.75, scan)[0][0, middle, middle])
        own = float((total_noise_std(noise_map) * noise.scale)[0, middle, middle].mean())
        simulated = torch.stack(images).std(dim=0).mean()
        print(f"  {percent:3d} %  {real:5.1f}  {simulated:5.1f}   (estimated at 100 %: {own:.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with ct_lowdose_pairs and ct_phantom_lcd")
    parser.add_argument("--plot", type=Path, help="write the picture here")
    parser.add_argument("--exact-slices", type=int, default=1, help="slices per folder for the exact simulation")
    parser.add_argument("--fit", action="store_true", help="fit the kernel cutoffs on patient L143, and stop")
    arguments = parser.parse_args()
    if arguments.fit:
        for folder in sorted((arguments.data / "ct_lowdose_pairs" / "L143").glob("full_*")):
            fit_cutoff(folder)
        return
    results = {}
    for patient, use in (("L143", "fitted"), ("L192", "check")):
        for folder in sorted((arguments.data / "ct_lowdose_pairs" / patient).glob("full_*")):
            measured, spacing, kernel, estimates = compare_pairs(folder, arguments.exact_slices)
            name = f"{patient} {kernel} ({use})"
            report(name, measured, spacing, estimates)
            results[name] = (measured, spacing)
    report_phantom(arguments.data / "ct_phantom_lcd" / "fbp_multidose.npz")
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
