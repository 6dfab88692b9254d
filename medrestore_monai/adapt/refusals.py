"""Degraded images that nothing can be learned from without targets: recognized by their noise, one sentence each.

Noise that was filtered, interpolated or taken away is no longer the noise that is drawn, and a network that learns from
it learns that filter. Every sentence says what to do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_dilation, gaussian_filter

from medrestore_monai.adapt.noise_check import BLOCKS, LEVEL, MOST_OUTSIDE, LevelCheck, compact_band, spread
from medrestore_monai.adapt.noise_model import NoiseModel, measure_noise
from medrestore_monai.adapt.noise_pet import flat_body
from medrestore_monai.adapt.slice_correlation import noise_correlation
from medrestore_monai.audit.regions import body_mask, smoothed
from medrestore_monai.audit.scope import OUT, measure_scope
from medrestore_monai.audit.spectrum import ring_means
from medrestore_monai.audit.volume import Volume, chosen_slices
from medrestore_monai.transforms.ct.noise import flat_soft_tissue

# Where the limits come from is in scripts/experiments/adapt_none/README.md.
LEAST_HIGH = 0.002  # power at 0.42..0.50 over that at 0.1..0.2 cycles/pixel
MOST_KURTOSIS = 0.45  # of the locally normalized band: beside another sign
CLEAR_KURTOSIS = 0.6  # alone
MOST_VARIATION = 0.2  # of the level over blocks
MOST_OVERLAP = 0.6  # correlation of the noise of neighboring slices
MOST_SHARED = 0.1  # correlation of the noise of two scans
MOST_CLIPPED = 0.001  # of the voxels of soft tissue
MOST_REMOVED = 1.15  # squared correlation, which is 1 at most
_CHANCE = 15.0  # over the square root of pixels; seven phantoms of different people correlated by up to 0.115
_EDGE = 5  # pixels across what is left out where two scans are compared
_SIDE = 64  # pixels of the patches of the power at high frequencies
_MOST_PATCHES = 400
_LEAST_FLAT = 2000  # pixels
_NORMALIZED = 6.0  # pixels, standard deviation of the local spread
_WORDS = (
    "DERIVED\\SECONDARY",
    "DENOIS",
    "MEDRESTORE",
    "ITERATIVE",
    "ADMIRE",
    "SAFIRE",
    "IRIS",
    "ASIR",
    "VEO",
    "IDOSE",
    "IMR",
    "AIDR",
    "FIRST",
    "AICE",
    "TRUEFIDELITY",
    "DLIR",
    "PRECISE IMAGE",
    "DEEP LEARNING",
    "PIXELSHINE",
    "CLARICT",
    "SUBTLE",
)


@dataclass(frozen=True)
class Processing:
    """What speaks for an image being filtered or denoised already.

    Args:
        high: power at 0.42..0.50 over that at 0.1..0.2 cycles/pixel; NaN where it was not measured.
        kurtosis: excess of the locally normalized band; 0 of normal noise; NaN likewise.
        variation: of the level from place to place, as of :class:`~medrestore_monai.adapt.noise_check.LevelCheck`.
        words: of the header that name a reconstruction or a program that denoises.
    """

    high: float
    kurtosis: float
    variation: float = math.nan
    words: tuple[str, ...] = ()

    @property
    def refusal(self) -> str | None:
        """Why the image cannot be used; ``None`` if it can."""
        if self.high < LEAST_HIGH:
            return (
                f"The images have next to no power at the finest frequencies ({self.high:.4f} of that at lower ones): "
                "they were interpolated or filtered. Give the slices as they were reconstructed."
            )
        signs = [
            *([f"noise that is not normal (excess kurtosis {self.kurtosis:.2f})"] * (self.kurtosis > MOST_KURTOSIS)),
            *(
                [f"noise that differs from place to place by {100 * self.variation:.0f} %"]
                * (self.variation > MOST_VARIATION)
            ),
            *([f"a header that says {', '.join(self.words)}"] if self.words else []),
        ]
        if len(signs) < 2 and not self.kurtosis > CLEAR_KURTOSIS:
            return None
        return f"The images were denoised already: {' and '.join(signs)}. Give the slices before that step."


def measure_processing(
    volume: np.ndarray,
    flat: np.ndarray,
    pixel: tuple[float, float],
    modality: str,
    header: str = "",
    variation: float = math.nan,
) -> Processing:
    """Measure what filters and denoising leave behind.

    Args:
        volume: in HU or SUV, shape ``(X, Y, Z)``.
        flat: mask of flat regions.
        pixel: size in mm.
        modality: ``CT`` or ``PT``. PET is always smooth, so its spectrum shows nothing.
        header: all that it says of the reconstruction, such as ImageType, ConvolutionKernel and SeriesDescription.
        variation: of the level of the noise from place to place.
    """
    text = header.upper()
    words = tuple(word for word in _WORDS if word in text)
    kurtosis = _kurtosis(volume, flat)
    high = _high(volume, pixel) if modality == "CT" else math.nan
    return Processing(high, kurtosis, variation, words)


def _high(volume: np.ndarray, pixel: tuple[float, float]) -> float:
    """Power at the finest frequencies over that at lower ones, in patches of the body."""
    body = body_mask(smoothed(volume, pixel), "CT")
    window = np.outer(*[np.hanning(_SIDE + 1)[:-1]] * 2)
    powers: list[np.ndarray] = []
    for z in chosen_slices(volume.shape[2], 8):
        for x in range(0, volume.shape[0] - _SIDE + 1, _SIDE // 2):
            for y in range(0, volume.shape[1] - _SIDE + 1, _SIDE // 2):
                place = (slice(x, x + _SIDE), slice(y, y + _SIDE), z)
                if body[place].mean() > 0.95 and len(powers) < _MOST_PATCHES:
                    patch = volume[place].astype(np.float64)
                    powers.append(np.abs(np.fft.fft2((patch - patch.mean()) * window)) ** 2)
    if not powers:
        return math.nan
    # flat patches, as edges have power everywhere
    powers.sort(key=lambda power: float(power.sum()))
    power = np.median(powers[: max(1, len(powers) // 2)], axis=0)
    frequency, rings = ring_means(power, (1.0, 1.0))
    fine, coarse = ((frequency >= low) & (frequency <= high) for low, high in ((0.42, 0.5), (0.1, 0.2)))
    return float(rings[fine].mean() / max(rings[coarse].mean(), 1e-12))


def _kurtosis(volume: np.ndarray, flat: np.ndarray) -> float:
    if flat.sum() < _LEAST_FLAT:
        return math.nan
    band = compact_band(volume)
    weight = gaussian_filter(flat.astype(np.float32), (_NORMALIZED, _NORMALIZED, 0))
    energy = gaussian_filter(band**2 * flat, (_NORMALIZED, _NORMALIZED, 0))
    values = (band / np.sqrt(np.maximum(energy / np.maximum(weight, 1e-6), 1e-20)))[flat]
    return float((values**4).mean() / (values**2).mean() ** 2 - 3)


def refuse_level(check: LevelCheck | None) -> str | None:
    """Refuse noise that cannot be drawn as the image has it."""
    if check is None or check.blocks < 4:
        return "Too little flat tissue to check the noise that would be drawn: give slices that show more of it."
    if not check.held:
        return (
            f"Drawn noise does not look like that of the images: its level is {check.level:.2f} of theirs (needed "
            f"{LEVEL[0]}..{LEVEL[1]}), and {100 * check.outside:.0f} % of the blocks are outside of {BLOCKS[0]}.."
            f"{BLOCKS[1]} (at most {100 * MOST_OUTSIDE:.0f} %). Adapt with clean images or pairs instead."
        )
    if check.variation > MOST_VARIATION:
        return (
            f"The noise differs from place to place by {100 * check.variation:.0f} % more than the anatomy explains: "
            "give slices as they were reconstructed, whole and not mixed of several."
        )
    return None


def refuse_overlap(correlation: np.ndarray) -> str | None:
    """Refuse slices whose noise is alike, given the correlation of slices 1, 2, ... apart."""
    if len(correlation) and correlation[0] > MOST_OVERLAP:
        return (
            f"The noise of neighboring slices correlates by {correlation[0]:.2f}: they overlap or were interpolated. "
            "Give slices at the distance at which they were reconstructed, no closer than their thickness."
        )
    return None


def refuse_clipped(volume: np.ndarray, pixel: tuple[float, float]) -> str | None:
    """Refuse CT that was cut to a window: its noise is cut as well."""
    smooth = smoothed(volume, pixel)
    tissue = (smooth > -150) & (smooth < 250)
    if not tissue.any():
        return None
    at = float(((volume <= volume.min()) | (volume >= volume.max()))[tissue].mean())
    if at <= MOST_CLIPPED:
        return None
    return f"{100 * at:.1f} % of the soft tissue has the lowest or highest value: give images that were not windowed."


def refuse_scope(volume: Volume, trained_on: Mapping[str, Any], neighbors: bool = False) -> str | None:
    """Refuse images far from what the bundle was trained on: modality, unit, pixel size, noise level, kernel."""
    scope = measure_scope(volume, trained_on, neighbors)
    if scope.state != OUT:
        return None
    far = [reason for reason, one in zip(scope.reasons, _reasoned(scope), strict=True) if one == OUT]
    return f"The images are too far from those that the bundle knows: {'; '.join(far)}. Adapt another bundle."


def refuse_images(
    source: Volume, trained_on: Mapping[str, Any], header: str = "", neighbors: bool = False
) -> tuple[NoiseModel | None, list[str]]:
    """Measure the noise of a volume, and say whatever speaks against learning from it without targets.

    Args:
        source: whole slices in order, in HU or SUV.
        trained_on: the block of that name in the bundle's ``metadata.json``.
        header: all that it says of the reconstruction.
        neighbors: whether the network sees neighboring slices.

    Returns:
        The noise, where it can be measured, and one sentence for each reason; none if the images can be used.
    """
    reasons = [refuse_scope(source, trained_on, neighbors)]
    if source.modality == "CT":
        reasons.append(refuse_clipped(source.array, source.pixel))
    noise: NoiseModel | None = None
    try:
        noise = measure_noise(torch.from_numpy(source.array)[None], source.spacing, source.modality)
    except ValueError as error:  # too little flat tissue, or no modality whose noise is known
        reasons.append(f"Noise cannot be measured: {str(error).rstrip('.')}.")
    else:
        flat = _flat(source)
        reasons += [
            measure_processing(
                source.array,
                flat,
                source.pixel,
                source.modality,
                header,
                noise.check.variation if noise.check else math.nan,
            ).refusal,
            refuse_level(noise.check),
            refuse_overlap(noise_correlation(source.array, source.pixel, source.modality))
            if source.modality == "CT"
            else None,
        ]
    return noise, [reason for reason in reasons if reason]


def _flat(source: Volume) -> np.ndarray:
    if source.modality == "PT":
        return flat_body(source.array, source.pixel)[1]
    slices = [
        flat_soft_tissue(torch.from_numpy(one), source.pixel[0]).numpy() for one in np.moveaxis(source.array, -1, 0)
    ]
    return np.stack(slices, axis=-1)


def _reasoned(scope: Any) -> list[str]:
    return [one.state for one in scope.features if one.state not in ("in", "unknown")]


def refuse_removed(removed_correlation: Sequence[float]) -> str | None:
    """Refuse a level of noise with which the shipped restoration would remove more than there is."""
    middle = float(np.median(removed_correlation)) if len(removed_correlation) else 0.0
    if middle <= MOST_REMOVED:
        return None
    return (
        f"The noise was measured too strong: what the shipped weights remove explains {middle:.2f} of it, more than "
        "all. Adapt with clean images or pairs instead."
    )


def shared_noise(first: np.ndarray, second: np.ndarray, pixel: tuple[float, float], modality: str) -> float:
    """Largest correlation of the noise of two volumes of one size ``(X, Y, Z)``, over all pairs of their slices.

    One scan in two kernels has the same raw data: its noise correlates, whatever the headers say. Up to 16 slices of
    each are compared, at every shift of a slice; 0 where sizes differ.
    """
    if first.shape[:2] != second.shape[:2]:
        return 0.0
    spectra = []
    for volume in (first, second):
        some = volume[..., chosen_slices(volume.shape[2])]
        inside = body_mask(smoothed(some, pixel), modality)
        band = compact_band(some)
        limit = [3 * spread(band[..., z][inside[..., z]]) if inside[..., z].any() else 0 for z in range(band.shape[2])]
        # edges and vessels, which are alike in other people
        edges = binary_dilation(np.abs(band) > np.asarray(limit), np.ones((_EDGE, _EDGE, 1)))
        band = np.where(inside & ~edges, band, 0)
        norm = np.sqrt((band**2).sum(axis=(0, 1)))
        spectra.append(np.fft.rfft2(band / np.maximum(norm, 1e-12), axes=(0, 1)))
    most = 0.0
    for a in np.moveaxis(spectra[0], -1, 0):
        for b in np.moveaxis(spectra[1], -1, 0):
            most = max(most, float(np.fft.irfft2(a * b.conj(), s=first.shape[:2]).max()))
    return most


def refuse_shared(correlation: float, pixels: int = 0) -> str | None:
    """Refuse two scans of which one trains and one judges.

    Args:
        correlation: of :func:`shared_noise`.
        pixels: of the body in a slice: of few of them, the largest of all shifts is larger by chance; 0 for many.
    """
    if correlation <= max(MOST_SHARED, _CHANCE / math.sqrt(pixels) if pixels else 0.0):
        return None
    return (
        f"Two scans on both sides of the split share their noise (correlation {correlation:.2f}): they are one scan, "
        "in two kernels or copied. Put them into the folder of one person."
    )
