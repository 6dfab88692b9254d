"""Measure how far the noise of neighboring slices is correlated in real CT and PET, for the simulations.

Each slice is high-passed, which removes most of the anatomy from its flat tissue; what remains is noise, and is
correlated between slices 1, 2, 3 and more apart. PET is taken relative to its local mean. The estimator is checked on
simulated noise of known correlation, on a flat phantom and on the same stacks with their own noise filtered away.

    python scripts/calibrate/axial_noise.py --data DATA
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import ndimage

from medrestore_monai.transforms.axial_noise import axial_weights, axial_width, correlation_of, white_slices

LAGS = (1, 2, 3, 4, 6)
FEWEST = 200  # pixels of two slices that are enough to compare
KNOWN = (0.0, 0.3, 0.7)  # correlation of neighboring slices in the check


def high_pass(volume: np.ndarray, width: float) -> np.ndarray:
    """Each slice of a volume ``(S, X, Y)`` minus a Gaussian of so many pixels of itself."""
    return volume - ndimage.gaussian_filter(volume, (0, width, width))


def correlations(noise: np.ndarray, flat: np.ndarray) -> list[float]:
    """Correlation per lag of residuals ``(S, X, Y)`` in flat tissue: the median over pairs of slices."""
    found: list[float] = []
    for lag in LAGS:
        pairs = []
        for first, second, mask in zip(noise[:-lag], noise[lag:], flat[:-lag] & flat[lag:], strict=True):
            if mask.sum() < FEWEST:
                continue
            values = np.stack([first[mask], second[mask]])
            spread = 1.4826 * np.median(np.abs(values), axis=1, keepdims=True)
            values = values[:, (np.abs(values) < 3.5 * spread).all(axis=0)]  # without vessels and edges
            pairs.append(np.corrcoef(values)[0, 1])
        found.append(float(np.median(pairs)) if pairs else float("nan"))
    return found


def flattest(smooth: np.ndarray, inside: np.ndarray, part: float) -> np.ndarray:
    """The flatter ``part`` of the pixels inside, by the slope of a smoothed volume ``(S, X, Y)``, for each slice."""
    slope = np.sum(np.square(np.gradient(smooth, axis=(1, 2))), axis=0)
    flat = np.zeros(smooth.shape, dtype=bool)
    for number, mask in enumerate(inside):
        if mask.any():
            flat[number] = mask & (slope[number] <= np.quantile(slope[number][mask], part))
    return flat


def away_from(outside: np.ndarray, pixels: int) -> np.ndarray:
    """Where a slice has nothing of ``outside`` for so many pixels around."""
    return ~ndimage.maximum_filter(outside, (1, 2 * pixels + 1, 2 * pixels + 1))


def ct_flat(volume: np.ndarray, spacing: float) -> np.ndarray:
    """Flat soft tissue: -100..200 HU for 6 mm around, and the flatter half of that."""
    smooth = ndimage.gaussian_filter(volume, (0, 2.5 / spacing, 2.5 / spacing))
    return flattest(smooth, away_from((smooth < -100) | (smooth > 200), max(1, round(6 / spacing))), 0.5)


def pet_flat(volume: np.ndarray, spacing: float) -> np.ndarray:
    """The flatter third of the body, relative to its activity, 12 mm away from the outside."""
    smooth = ndimage.gaussian_filter(volume, (2, 8 / spacing, 8 / spacing))
    body = smooth > 0.3 * np.median(smooth[smooth > 0.1 * np.quantile(smooth, 0.99)])
    logarithm = np.log(np.maximum(smooth, 1e-3 * smooth.max()))
    return flattest(logarithm, away_from(~body, max(1, round(12 / spacing))), 0.33)


def relative(volume: np.ndarray, spacing: float) -> np.ndarray:
    """PET relative to its local mean, for noise that follows the activity."""
    mean = ndimage.gaussian_filter(volume, (2, 8 / spacing, 8 / spacing))
    return volume / np.maximum(mean, 1e-3 * mean.max())


def simulated(shape: tuple[int, int, int], correlation: float, grain: float) -> np.ndarray:
    """Noise of variance 1 with a grain of so many pixels (standard deviation) and this correlation of neighbors."""
    weights = axial_weights(axial_width(correlation, 1.0), 1.0)
    noise = ndimage.gaussian_filter(white_slices(0, range(shape[0]), shape[1:], weights), (0, grain, grain))
    return noise / noise.std()


def report(name: str, found: list[float], distance: float) -> None:
    """Print one line: the correlations, and the filter along the axis that would make the first of them."""
    first = min(max(found[0], 0.0), 0.95)
    width = axial_width(first, distance)
    expected = [correlation_of(axial_weights(width, distance), lag) for lag in (2, 3)]
    print(
        f"{name:44s} {distance:5.2f} mm | {' '.join(f'{value:6.3f}' for value in found)} | {width:4.1f} mm, "
        f"which gives {expected[0]:.3f} {expected[1]:.3f} at 2 and 3",
        flush=True,
    )


def check(name: str, volume: np.ndarray, flat: np.ndarray, spacing: float, distance: float, pet: bool) -> None:
    """Put noise of known correlation on a flat phantom, and on the stack without its own noise, and measure it."""
    grain, width = (1.0, 2.0) if pet else (0.5, 1.0)
    smooth = ndimage.gaussian_filter(volume, (1.0, 2.5 * grain, 2.5 * grain))
    level = float(np.median(np.abs(high_pass(relative(volume, spacing) if pet else volume, width)[flat]))) * 1.4826
    level /= float(high_pass(simulated(volume.shape, 0.0, grain), width).std())  # noise as strong as the stack's own
    for known in KNOWN:
        noise = level * simulated(volume.shape, known, grain)
        phantom = correlations(high_pass(noise, width), flat)[:3]
        noisy = smooth * (1 + noise) if pet else smooth + noise
        stack = correlations(high_pass(relative(noisy, spacing) if pet else noisy, width), flat)[:3]
        both = " | ".join(" ".join(f"{value:6.3f}" for value in found) for found in (phantom, stack))
        print(f"  check, {name}, {known:.1f} at lag 1: phantom, stack {both}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with ct_contiguous_tcia and the PET stacks")
    folder = parser.parse_args().data
    print(f"stack, distance of slices | correlation at lags {LAGS} | width of a Gaussian of the same first correlation")
    for meta in json.loads((folder / "ct_contiguous_tcia/meta.json").read_text()):
        volume = np.load(folder / "ct_contiguous_tcia/slices.npz")[meta["key"]].astype(np.float32)
        distance, spacing = meta["spacing_mm"][:2]
        flat = ct_flat(volume, spacing)
        report(f"{meta['key']} {meta['kernel']}", correlations(high_pass(volume, 1.0), flat), distance)
        check(meta["key"], volume, flat, spacing, distance, pet=False)
    for name in ("pet_fdg_qin_hn_0024", "pet_phantom_nema_iq"):
        (meta,) = json.loads((folder / name / "meta.json").read_text())
        volume = np.load(folder / name / "slices.npz")[meta["key"]].astype(np.float32)
        slopes = np.broadcast_to(np.asarray(meta["rescale_slope"], dtype=np.float32), len(volume))
        volume = volume * slopes[:, None, None]
        distance, spacing = float(meta["thickness"]), meta["pixel_mm"][0]
        flat = pet_flat(volume, spacing)
        for width in (1.5, 2.0, 3.0):
            found = correlations(high_pass(relative(volume, spacing), width), flat)
            report(f"{name}, high-pass of {width} pixels", found, distance)
        check(name, volume, flat, spacing, distance, pet=True)


if __name__ == "__main__":
    main()
