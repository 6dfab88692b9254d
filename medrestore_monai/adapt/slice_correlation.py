"""How the noise of neighboring slices is correlated, measured in the scan itself.

Distance and thickness in a header do not tell: noise of slices that do not overlap correlates as well, by the
interpolation of spiral CT and the post filter of PET. Measured in a compact band, outliers cut, and freed of the
correlation five slices apart, which is anatomy's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from medrestore_monai.adapt.noise_check import compact_band, spread
from medrestore_monai.audit.regions import body_mask, smoothed
from medrestore_monai.transforms.axial_noise import axial_width

ANATOMY_LAG = 5  # slices
INDEPENDENT = 0.05  # correlation below which noise counts as independent
LARGEST_LAG = 4
_CUT = 3.0  # spreads; vessels and edges lie beyond
_LEAST = 2000  # pixels of a pair of slices
_MOST_CORRELATION = 0.95


def noise_correlation(volume: np.ndarray, pixel: tuple[float, float], modality: str) -> np.ndarray:
    """Correlation of the noise of slices 1..4 apart.

    Args:
        volume: shape ``(X, Y, Z)``, in order along the axis.
        pixel: size in mm.
        modality: ``CT`` or ``PT``; the noise of PET is taken relative to the local mean.

    Returns:
        Shape ``(4,)``; NaN where the volume has not enough slices. With less than 6 slices, anatomy is left in.
    """
    lags = np.full(LARGEST_LAG, np.nan)
    band, inside = _noise_band(volume, pixel, modality)
    for lag in range(1, min(LARGEST_LAG, volume.shape[2] - 1) + 1):
        lags[lag - 1] = _correlation(band, inside, lag)
    if volume.shape[2] > ANATOMY_LAG:
        anatomy = _correlation(band, inside, ANATOMY_LAG)
        if np.isfinite(anatomy):
            # what is the same in all slices adds to the products and to the variances
            lags = (lags - max(anatomy, 0.0)) / (1 - max(anatomy, 0.0))
    return lags


def axial_width_of(volume: Tensor, spacing: Sequence[float], modality: str) -> float:
    """Full width at half maximum in mm of the filter that correlates the slices of a volume ``(1, X, Y, Z)``."""
    if volume.shape[3] < 2:
        return 0.0
    neighbors = noise_correlation(volume[0].numpy(), (spacing[0], spacing[1]), modality)[0]
    if not np.isfinite(neighbors) or neighbors < INDEPENDENT:
        return 0.0
    return axial_width(min(float(neighbors), _MOST_CORRELATION), spacing[2])


def target_offset(
    correlation: np.ndarray, kept: float, context: int, distance: float, reach: float = 3.0
) -> int | None:
    """How far away a slice may serve as a target: at least so far that its noise allows it, and never as an input.

    A target whose noise correlates by ``rho`` with the input's teaches the network to keep the share ``rho`` of it.

    Args:
        correlation: of the noise of slices 1, 2, ... apart, as of :func:`noise_correlation`.
        kept: share of the noise that the output is to keep.
        context: slices on each side that the network sees.
        distance: of neighboring slices in mm.
        reach: mm, farther than which anatomy differs.

    Returns:
        The offset in slices; ``None`` where no slice is allowed.
    """
    for offset in range(context + 1, len(correlation) + 1):
        if offset * distance > reach:
            return None
        if correlation[offset - 1] <= kept + INDEPENDENT:  # False for NaN
            return offset
    return None


def _noise_band(volume: np.ndarray, pixel: tuple[float, float], modality: str) -> tuple[np.ndarray, np.ndarray]:
    smooth = smoothed(volume, pixel)
    inside = body_mask(smooth, modality)
    values = np.asarray(volume, dtype=np.float32)
    if modality == "PT":
        values = values / np.maximum(smoothed(values, pixel, 6.0), 1e-3)
    band = compact_band(values)
    for z in range(band.shape[2]):
        at = inside[..., z]
        if at.any():
            band[..., z] -= np.median(band[..., z][at])
            inside[..., z] &= np.abs(band[..., z]) <= _CUT * spread(band[..., z][at])
    return band, inside


def _correlation(band: np.ndarray, inside: np.ndarray, lag: int) -> float:
    both = inside[..., lag:] & inside[..., :-lag]
    if both.sum() < _LEAST:
        return float("nan")
    return float(np.corrcoef(band[..., lag:][both], band[..., :-lag][both])[0, 1])
