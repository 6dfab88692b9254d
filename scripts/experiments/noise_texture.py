"""Is the texture of a CT slice kept? Noise power spectra of what a bundle takes away and of what it leaves.

    python scripts/experiments/evaluate_ct_pairs.py PAIRS RESTORED        # writes the restored series
    python scripts/experiments/noise_texture.py PAIRS RESTORED [--plot nps.png] [--csv nps.csv]

PAIRS holds ``<patient>/quarter_<kernel>`` and ``<patient>/full_<kernel>``, RESTORED ``<patient>/<kernel>``. In half-
overlapping squares of 64 pixels, at least 90 % soft tissue (-100 to 200 HU in the smoothed full-dose slice), three
differences are analyzed for each reconstruction kernel:

- inserted: quarter dose minus full dose, the noise to be removed (with the little noise of the full dose);
- removed: quarter dose minus restored; its spectrum is like the inserted one's where texture is kept;
- remaining: restored minus full dose; power at low frequencies only is what looks blotchy.

A spectrum is the mean of ``|FFT|^2`` of the squares, less their mean and under a Hann window, in HU^2 mm^2, averaged
over rings. SD is the standard deviation in HU, peak the frequency of the largest ring, mean the average frequency
weighted by the ring averages, both in 1/mm; low is the part of the variance below 0.2/mm. "kept" is, per band, how much
of the inserted power remains.
"""

import argparse
import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from medrestore_monai.dicom import read_series

SIDE = 64  # pixels of a square
EDGES = np.arange(0, 0.82, 0.02)  # of the rings, in 1/mm
CENTERS = (EDGES[1:] + EDGES[:-1]) / 2
DIFFERENCES = ("inserted", "removed", "remaining")


def squares(mask: np.ndarray) -> list[tuple[slice, slice]]:
    """List half-overlapping squares of a mask ``(X, Y)`` that are set to 90 %."""
    starts = [range(0, size - SIDE + 1, SIDE // 2) for size in mask.shape]
    found = [(slice(x, x + SIDE), slice(y, y + SIDE)) for x in starts[0] for y in starts[1]]
    return [square for square in found if mask[square].mean() >= 0.9]


@dataclass
class Spectrum:
    """A radial noise power spectrum that grows square by square."""

    power: np.ndarray
    count: np.ndarray
    squares: int = 0
    variance: float = 0.0

    @classmethod
    def empty(cls) -> "Spectrum":
        """Return one of nothing."""
        return cls(np.zeros(len(CENTERS)), np.zeros(len(CENTERS)))

    def add(self, values: np.ndarray, spacing: tuple[float, float]) -> None:
        """Add a square ``(SIDE, SIDE)`` of differences in HU, with pixels of ``spacing`` mm."""
        window = np.outer(*[np.hanning(SIDE + 1)[:-1]] * 2)
        values = values - (values * window).sum() / window.sum()
        power = np.abs(np.fft.fft2(values * window)) ** 2 * np.prod(spacing) / (window**2).sum()
        radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(SIDE, step) for step in spacing), indexing="ij"))
        ring = np.digitize(radius.ravel(), EDGES) - 1
        inside = ring < len(CENTERS)
        self.power += np.bincount(ring[inside], power.ravel()[inside], len(CENTERS))
        self.count += np.bincount(ring[inside], minlength=len(CENTERS))
        self.variance += float((values**2 * window**2).sum() / (window**2).sum())
        self.squares += 1

    @property
    def radial(self) -> np.ndarray:
        """Ring averages in HU^2 mm^2; 0 where no frequency falls into a ring."""
        return self.power / np.maximum(self.count, 1)

    def numbers(self) -> dict[str, float]:
        """Return SD in HU, peak and mean frequency in 1/mm, and the part of the variance below 0.2/mm."""
        used = self.count > 0
        total = max(float(self.power.sum()), 1e-30)
        return {
            "SD": (self.variance / max(self.squares, 1)) ** 0.5,
            "peak": float(CENTERS[np.argmax(self.radial)]),
            "mean": float((CENTERS * self.radial)[used].sum() / max(float(self.radial[used].sum()), 1e-30)),
            "low": float(self.power[CENTERS < 0.2].sum()) / total,
        }


def measure(pairs: Path, restored: Path) -> dict[str, dict[str, Spectrum]]:
    """Return the spectra by kernel and difference.

    Raises:
        ValueError: there is no pair, or the restored series does not fit.
    """
    spectra: dict[str, dict[str, Spectrum]] = defaultdict(lambda: {name: Spectrum.empty() for name in DIFFERENCES})
    for place in sorted(pairs.glob("*/quarter_*")):
        kernel = place.name.removeprefix("quarter_")
        series = read_series(place.with_name(f"full_{kernel}"), allow_gaps=True)
        full = series.array
        quarter, result = (
            read_series(path, allow_gaps=True).array for path in (place, restored / place.parent.name / kernel)
        )
        if not full.shape == quarter.shape == result.shape:
            raise ValueError(f"{place.parent.name}, {kernel}: shapes {full.shape}, {quarter.shape}, {result.shape}.")
        spacing = tuple(float(np.linalg.norm(series.affine[:3, axis])) for axis in (0, 1))
        differences = dict(zip(DIFFERENCES, (quarter - full, quarter - result, result - full), strict=True))
        for number in range(full.shape[2]):
            smooth = gaussian_filter(full[..., number].astype(np.float64), 3)
            for square in squares((smooth > -100) & (smooth < 200)):
                for name, values in differences.items():
                    spectra[kernel][name].add(values[(*square, number)].astype(np.float64), spacing)
    if not spectra:
        raise ValueError(f"{pairs} holds no <patient>/quarter_<kernel>.")
    return spectra


def plot(path: Path, spectra: dict[str, dict[str, Spectrum]]) -> None:
    """Draw the spectra, one panel a kernel."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(spectra), figsize=(5 * len(spectra), 3.6), squeeze=False)
    for axis, (kernel, by_name) in zip(axes[0], sorted(spectra.items()), strict=True):
        for name, spectrum in by_name.items():
            axis.plot(CENTERS, spectrum.radial, label=name)
        axis.set(title=kernel, xlabel="frequency (1/mm)", ylabel="noise power (HU$^2$ mm$^2$)")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("restored", type=Path)
    parser.add_argument("--plot", type=Path, metavar="PNG")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="the curves")
    options = parser.parse_args()
    try:
        spectra = measure(options.pairs, options.restored)
    except (ValueError, OSError) as error:
        raise SystemExit(f"Error: {error}") from error
    print("| kernel | difference | squares | SD (HU) | peak (1/mm) | mean (1/mm) | below 0.2/mm |")
    print("|---|---|---|---|---|---|---|")
    for kernel, by_name in sorted(spectra.items()):
        for name, spectrum in by_name.items():
            n = spectrum.numbers()
            cells = f"{n['SD']:.1f} | {n['peak']:.2f} | {n['mean']:.2f} | {100 * n['low']:.0f} %"
            print(f"| {kernel} | {name} | {spectrum.squares} | {cells} |")
    print("\n| kernel | kept below 0.2/mm | 0.2 to 0.4 | 0.4 to 0.8 |\n|---|---|---|---|")
    for kernel, by_name in sorted(spectra.items()):
        inserted, remaining = (by_name[name].power for name in ("inserted", "remaining"))
        bands = [(CENTERS < 0.2), (CENTERS > 0.2) & (CENTERS < 0.4), CENTERS > 0.4]
        print(f"| {kernel} | " + " | ".join(f"{remaining[b].sum() / inserted[b].sum():.2f}" for b in bands) + " |")
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["kernel", "difference", *(f"{center:.2f}" for center in CENTERS)])
            for kernel, by_name in sorted(spectra.items()):
                for name, spectrum in by_name.items():
                    writer.writerow([kernel, name, *(f"{value:.4g}" for value in spectrum.radial)])
    if options.plot:
        plot(options.plot, spectra)


if __name__ == "__main__":
    main()
