"""What a sphere looks like in an image: averaged over voxels, blurred as by the scanner."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from medrestore_monai.evaluate.lesions.kinds import LesionKind

_PARTS = 12  # of the diameter, at least, that can be distinguished
BLURS = 3.0  # standard deviations of the blur that a lesion reaches beyond its radius


def sphere(kind: LesionKind, spacing: tuple[float, float, float]) -> np.ndarray:
    """Return a lesion of contrast 1, centered in a voxel.

    Args:
        kind: its diameter and blur.
        spacing: of the voxels in mm; a slice is as thick as slices are apart.

    Returns:
        Shape ``(X, Y, Z)``, odd along each axis, and large enough for all that is not 0.
    """
    blur = (kind.blur, kind.blur, kind.axial_blur)
    half = [
        int(np.ceil((kind.diameter / 2 + BLURS * width) / step + 0.5))
        for step, width in zip(spacing, blur, strict=True)
    ]
    parts = [max(3, int(np.ceil(_PARTS * step / kind.diameter))) | 1 for step in spacing]
    squared = [
        ((np.arange((2 * n + 1) * count) + 0.5) / count - n - 0.5) ** 2 * step**2
        for n, count, step in zip(half, parts, spacing, strict=True)
    ]
    distance = squared[0][:, None, None] + squared[1][:, None] + squared[2]  # (X, Y, Z) of parts, mm^2
    inside = (distance <= (kind.diameter / 2) ** 2 + 1e-6).astype(np.float32)  # symmetric in spite of rounding
    widths = [width * count / step for width, count, step in zip(blur, parts, spacing, strict=True)]
    blurred = gaussian_filter(inside, widths, mode="constant")
    shape = [size for n, count in zip(half, parts, strict=True) for size in (2 * n + 1, count)]
    averaged: np.ndarray = blurred.reshape(shape).mean(axis=(1, 3, 5))
    return averaged
