"""Refuse pairs whose two images do not show the same: shifted, of another contrast, or scaled."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.registration import phase_cross_correlation

from medrestore_monai.audit.regions import body_mask, smoothed

__all__ = ["pair_problem"]

_MOST_SHIFT = 0.5  # pixels
_LEAST_CORRELATION = 0.95
_MOST_GAIN = 0.02  # off 1
_SMOOTHING = 4.0  # pixels, so that noise has no say
_UPSAMPLING = 20


def pair_problem(degraded: np.ndarray, clean: np.ndarray, pixel: tuple[float, float], modality: str) -> str:
    """Say why two images are no pair, as the end of a sentence; empty if they may be one.

    Args:
        degraded: slices in their physical unit, shape ``(X, Y, Z)``.
        clean: their targets, same shape and unit.
        pixel: size in mm.
        modality: a key of :data:`~medrestore_monai.intensity.INTENSITY_RANGES`.
    """
    if degraded.shape != clean.shape:
        return f"has the shape {degraded.shape}, its target {clean.shape}"
    low = [gaussian_filter(one.astype(np.float32), (_SMOOTHING, _SMOOTHING, 0)) for one in (degraded, clean)]
    if min(float(np.ptp(one)) for one in low) <= 0:
        return "shows nothing"
    inside = body_mask(smoothed(clean, pixel), modality)
    if inside.sum() < 100:
        return "shows no body"
    values = [one[inside] for one in low]
    correlation = float(np.corrcoef(*values)[0, 1])
    if not correlation >= _LEAST_CORRELATION:
        return f"does not look like its target (correlation {correlation:.2f} without the noise)"
    shift = _shift(low[0], low[1])
    if shift > _MOST_SHIFT:
        return f"is shifted by {shift:.1f} pixels against its target"
    gain = float(np.polyfit(values[1], values[0], 1)[0])
    if abs(gain - 1) > _MOST_GAIN:
        return f"has {gain:.2f} times the contrast of its target"
    return ""


def _shift(degraded: np.ndarray, clean: np.ndarray) -> float:
    """Return the median shift of slices in pixels."""
    found = []
    for number in range(clean.shape[2]):
        pair = clean[..., number], degraded[..., number]
        if min(float(np.ptp(one)) for one in pair) > 0:
            shift, _, _ = phase_cross_correlation(*pair, upsample_factor=_UPSAMPLING, normalization=None)
            found.append(float(np.hypot(*shift)))
    return float(np.median(found)) if found else 0.0
