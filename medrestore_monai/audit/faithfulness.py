"""Where a result differs from its source by more than noise explains: invented or erased structure.

``z = G * (r / s) / rho``, with the change ``r``, the local noise ``s`` of the source and Gaussians ``G`` of several
widths; ``rho`` makes the variance 1 where the change is noise of the source's spectrum. A disc of radius R and of A
noise standard deviations, added or removed, gives ``z = A (1 - exp(-R^2 / 2 g^2)) / rho`` in its center.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.ndimage import convolve1d, gaussian_filter, label, maximum_position

from medrestore_monai.audit.figures import Figure
from medrestore_monai.audit.noise import Noise
from medrestore_monai.audit.regions import body_mask, smoothed
from medrestore_monai.audit.spectrum import Spectrum
from medrestore_monai.audit.volume import Volume

THRESHOLD = 5.0
WIDTHS = (1.0, 1.5, 2.5, 4.0)  # pixels, standard deviations of the Gaussians
_NEIGHBORHOOD = 8.0  # mm over which the local noise is averaged
_CLIP = 3.0  # times the usual response of a slice: edges are not noise
_LEAST_NOISE = 0.25  # of the noise in the flat region
_PET_MEAN = 6.0  # mm
_STEP = 2  # pixels between which second differences are taken
_MOST_FLAGS = 50
_METHOD = "change over local noise, smoothed with Gaussians of 1, 1.5, 2.5 and 4 pixels, scaled to the source's noise"


@dataclass(frozen=True)
class Flag:
    """A connected region of one slice where the change exceeds the threshold.

    Args:
        slice: its number.
        x: column of the strongest pixel.
        y: its row.
        z: there; above 0 where the result is brighter than the source.
        area: in mm^2.
    """

    slice: int
    x: int
    y: int
    z: float
    area: float

    def as_dict(self) -> dict[str, Any]:
        """Return the flag as JSON values."""
        return {**vars(self), "z": round(self.z, 2), "area": round(self.area, 1)}


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """What was found of changes that noise does not explain.

    Args:
        figures: the largest change, and how many flags a slice has.
        threshold: of ``z``, above which a region is flagged.
        flags: the strongest 50.
        count: of all flags.
        z: the value of the largest magnitude over all widths, shape ``(X, Y, Z)``; empty where nothing was measured.
    """

    figures: list[Figure]
    threshold: float
    flags: list[Flag] = field(default_factory=list)
    count: int = 0
    z: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), dtype=np.float32))


def measure_faithfulness(source: Volume, restored: Volume, noise: Noise, threshold: float = THRESHOLD) -> Faithfulness:
    """Map the change of a restoration in units of the source's noise, and flag where it is too large.

    Args:
        source: the input.
        restored: the output, on the same grid.
        noise: of the two, see :func:`~medrestore_monai.audit.noise.measure_noise`.
        threshold: of ``z``.

    Raises:
        ValueError: the threshold is not above 0.
    """
    if not threshold > 0:
        raise ValueError(f"the threshold of the change map must be above 0, got {threshold}.")
    spectrum = noise.of_source
    if spectrum is None:
        reason = "nothing to measure: the noise of the source could not be measured"
        return Faithfulness([Figure("largest change", "body", "1", _METHOD, not_measured=reason)], threshold)
    z, inside = change_map(source, restored, noise, spectrum)
    flags = []
    for index in range(source.slices):
        flags += find_flags(z[..., index], inside[..., index], index, threshold, source.pixel)
    flags.sort(key=lambda flag: -abs(flag.z))
    count = int(inside.sum())
    largest = float(np.abs(z[inside]).max()) if count else 0.0
    figures = [
        Figure("largest change", "body", "1", _METHOD, None, largest, count, "voxels"),
        Figure("flags per slice", "body", "1", _METHOD, None, len(flags) / source.slices, source.slices, "slices"),
    ]
    return Faithfulness(figures, threshold, flags[:_MOST_FLAGS], len(flags), z)


def change_map(source: Volume, restored: Volume, noise: Noise, spectrum: Spectrum) -> tuple[np.ndarray, np.ndarray]:
    """Return ``z`` of the largest magnitude over all widths, and the mask of the body, both ``(X, Y, Z)``."""
    smooth = smoothed(source.array, source.pixel)
    inside = body_mask(smooth, source.modality)
    scaled = (restored.array - source.array) / noise_map(source, noise, spectrum)
    z = np.zeros(source.array.shape, dtype=np.float32)
    for width in WIDTHS:
        one = gaussian_filter(scaled, (width, width, 0)) / noise_spread(spectrum, width)
        z = np.where(np.abs(one) > np.abs(z), one, z)
    return np.where(inside, z, 0).astype(np.float32), inside


def noise_map(source: Volume, noise: Noise, spectrum: Spectrum) -> np.ndarray:
    """Return the local standard deviation of the source's noise, shape ``(X, Y, Z)``.

    It follows the second differences of the source, clipped at three times their usual size so that edges do not count
    as noise, and has the measured value in the flat region. For PET it is a fixed part of the local mean.
    """
    deviation = float(np.sqrt(spectrum.area))
    if source.modality == "PT":
        local = smoothed(source.array, source.pixel, _PET_MEAN)
        relative: np.ndarray = deviation * np.maximum(local, 0.1 * float(local.mean()) + 1e-6)
        return relative
    body = body_mask(smoothed(source.array, source.pixel), source.modality)
    local = np.empty_like(source.array)
    width = [_NEIGHBORHOOD / step for step in source.pixel]
    second = np.zeros(2 * _STEP + 1)
    second[[0, _STEP, -1]] = 1, -2, 1
    for index in range(source.slices):
        one = source.array[..., index]
        response = np.abs(convolve1d(convolve1d(one, second, axis=0), second, axis=1))
        mask: np.ndarray = body[..., index].astype(np.float32)
        usual = float(np.median(response[body[..., index]])) if mask.any() else 0.0
        weight = np.maximum(gaussian_filter(mask, width), 1e-3)
        local[..., index] = gaussian_filter(np.minimum(response, _CLIP * usual) * mask, width) / weight
    flat = local[..., noise.slices][noise.flat]
    scaled = local * (deviation / max(float(flat.mean()), 1e-9))
    return np.maximum(scaled, _LEAST_NOISE * deviation)


def noise_spread(spectrum: Spectrum, width: float) -> float:
    """Return the standard deviation of noise of this spectrum, and of variance 1, behind a Gaussian of ``width`` px."""
    axes = [np.fft.fftfreq(size) for size in spectrum.power.shape]
    squared = np.add.outer(axes[0] ** 2, axes[1] ** 2)
    passed = (spectrum.power * np.exp(-4 * (np.pi * width) ** 2 * squared)).sum() / spectrum.power.sum()
    # an estimate from few pixels may be below that of white noise, or below 0
    white = 1 / (4 * np.pi * width**2)
    return float(np.sqrt(max(passed, 0.05 * white)))


def find_flags(
    z: np.ndarray, inside: np.ndarray, index: int, threshold: float, pixel: tuple[float, float]
) -> list[Flag]:
    """Return the connected regions of one slice where the change exceeds a threshold, brighter ones first.

    Args:
        z: of :func:`change_map`, shape ``(X, Y)``.
        inside: mask of the body, of the same shape.
        index: number of the slice.
        threshold: of ``z``.
        pixel: size in mm.
    """
    flags = []
    for sign in (1, -1):
        regions, count = label((sign * z > threshold) & inside, np.ones((3, 3)))
        if count:
            numbers = range(1, count + 1)
            sizes = np.bincount(regions.ravel())[1:]
            for at, size in zip(maximum_position(sign * z, regions, numbers), sizes, strict=True):
                flags.append(Flag(index, int(at[0]), int(at[1]), float(z[at]), float(size * pixel[0] * pixel[1])))
    return flags
