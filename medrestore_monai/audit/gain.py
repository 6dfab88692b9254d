"""Signal gain: how much of the structure of the source is left in the result, by frequency, for any pair of images.

``H(f) = (C_e - C_0) / (P_e - P_0)`` with the cross spectrum ``C = Re <X Y*>`` of result and source and the power ``P``
of the source, both over Hann-windowed patches: ``e`` are the 40 % of patches with the most structure and ``0`` the 15 %
with the least, which hold the noise alone. Without the subtraction, denoising would pass for blur.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medrestore_monai.audit.figures import Figure
from medrestore_monai.audit.regions import body_mask, smoothed
from medrestore_monai.audit.spectrum import ring_means
from medrestore_monai.audit.volume import Volume, chosen_slices

LEAST_RATIO = 4.0  # of P_e to P_0, below which the gain overshoots
_MOST_STRUCTURE, _LEAST_STRUCTURE = 0.40, 0.15
_LEAST_PATCHES = 20
_BODY = 0.9  # part of a patch that is body
_BANDS = ((0.0, 0.15), (0.15, 0.3), (0.3, 0.6))  # parts of the Nyquist frequency
_STRUCTURE_SIGMA = 2.0  # pixels, of the smoothing by which patches are sorted
_METHOD = "signal gain (C_e - C_0)/(P_e - P_0) of Hann patches, where P_e/P_0 is at least 4"


@dataclass(frozen=True, eq=False)
class Gain:
    """What was measured of the signal gain.

    Args:
        figures: the mean gain of three bands.
        frequency: of the valid rings, in 1/mm.
        gain: there; 1 where structure is kept.
    """

    figures: list[Figure]
    frequency: np.ndarray
    gain: np.ndarray


def measure_gain(source: Volume, restored: Volume) -> Gain:
    """Measure the signal gain of the restored image against its source, over up to 16 slices."""
    chosen = chosen_slices(source.slices)
    side = 64 if min(source.array.shape[:2]) >= 192 else 32
    before, after = (cut_patches(image.array[..., chosen], side) for image in (source, restored))
    smooth = smoothed(source.array[..., chosen], source.pixel)
    kept = cut_patches(body_mask(smooth, source.modality), side).mean(axis=(1, 2)) >= _BODY
    before, after = before[kept], after[kept]
    if len(before) < _LEAST_PATCHES:
        reason = f"{len(before)} patches of {side} pixels lie in the body; {_LEAST_PATCHES} are needed"
        return Gain(_figures(source, reason=reason), np.zeros(0), np.zeros(0))
    sigma = (_STRUCTURE_SIGMA * source.pixel[0], _STRUCTURE_SIGMA * source.pixel[1])
    shaped = cut_patches(smoothed(source.array[..., chosen], source.pixel, max(sigma)), side)[kept]
    frequency, gain, valid = signal_gain(before, after, shaped.var(axis=(1, 2)), source.pixel)
    return Gain(_figures(source, frequency, gain, valid, len(before)), frequency[valid], gain[valid])


def signal_gain(
    before: np.ndarray, after: np.ndarray, structure: np.ndarray, pixel: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the signal gain of patches.

    Args:
        before: patches of the source, shape ``(n, N, N)``.
        after: the same of the result.
        structure: how much structure each patch holds, shape ``(n,)``.
        pixel: size in mm.

    Returns:
        Frequencies of rings in 1/mm, the gain there, and where it is valid.
    """
    order = np.argsort(structure)
    least = order[: max(1, int(_LEAST_STRUCTURE * len(order)))]
    most = order[-max(1, int(_MOST_STRUCTURE * len(order))) :]
    cross, power = _spectra(before, after)
    rings = {}
    for name, chosen in (("0", least), ("e", most)):
        frequency, rings["C" + name] = ring_means(cross[chosen].mean(axis=0), pixel)
        rings["P" + name] = ring_means(power[chosen].mean(axis=0), pixel)[1]
    signal = rings["Pe"] - rings["P0"]
    # a rounding error is no structure
    floor = 1e-9 * max(float(rings["Pe"].max()), 1e-30)
    valid = (rings["Pe"] >= LEAST_RATIO * rings["P0"]) & (signal > floor)
    valid[0] = False  # the mean was taken away
    gain = (rings["Ce"] - rings["C0"]) / np.where(signal > floor, signal, np.inf)
    return frequency, gain, valid


def _spectra(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    window = np.outer(*[np.hanning(before.shape[1] + 1)[:-1]] * 2)
    transforms = []
    for patches in (before, after):
        mean = (patches * window).sum(axis=(1, 2), keepdims=True) / window.sum()
        transforms.append(np.fft.fft2((patches - mean) * window))
    return (transforms[1] * transforms[0].conj()).real, np.abs(transforms[0]) ** 2


def cut_patches(slices: np.ndarray, side: int) -> np.ndarray:
    """Return half-overlapping patches ``(n, side, side)`` of slices ``(X, Y, Z)``."""
    starts = [range(0, max(size - side, 0) + 1, side // 2) for size in slices.shape[:2]]
    cut = [slices[x : x + side, y : y + side, z] for z in range(slices.shape[2]) for x in starts[0] for y in starts[1]]
    whole = [patch for patch in cut if patch.shape == (side, side)]
    return np.stack(whole) if whole else np.zeros((0, side, side), dtype=slices.dtype)


def _figures(
    source: Volume,
    frequency: np.ndarray | None = None,
    gain: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    count: int = 0,
    reason: str = "",
) -> list[Figure]:
    nyquist = 0.5 / max(source.pixel)
    figures = []
    for low, high in _BANDS:
        region = f"{low * nyquist:.2f} to {high * nyquist:.2f}/{source.length}"
        why, value = reason, None
        if frequency is not None and gain is not None and valid is not None:
            inside = valid & (frequency > low * nyquist) & (frequency <= high * nyquist)
            value = float(gain[inside].mean()) if inside.any() else None
            why = "" if inside.any() else "no structure stands out of the noise there"
        not_measured = f"nothing to measure: {why}" if value is None else ""
        before = None if value is None else 1.0
        figures.append(Figure("signal gain", region, "1", _METHOD, before, value, count, "patches", None, not_measured))
    return figures
