"""Classical methods that see the neighbors of a slice: volumes ``(C, X, Y, Z)`` of slices along Z; see the package.

A stack of one slice has no neighbors: it is restored as the 2D method of the same name does. Values are computed as
float32, in which whole volumes fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage import restoration

from medrestore_monai.classical import filters

PATCH = 3  # voxels, side of what is compared
REACH = 3  # voxels, how far away alike voxels are looked for


def gaussian_3d(volume: np.ndarray, spacing: Sequence[float], sigma_mm: float) -> np.ndarray:
    """Smooth with a Gaussian of ``sigma_mm`` in all directions, as a scanner's post-filter does; borders are repeated.

    Args:
        volume: shape ``(C, X, Y, Z)``.
        spacing: of the voxels in mm, along X, Y and Z.
        sigma_mm: standard deviation in mm; the full width at half maximum is 2.355 times that.
    """
    along = [sigma_mm / step for step in spacing]
    if volume.shape[-1] == 1:
        along[2] = 0
    smooth: np.ndarray = gaussian_filter(volume, (0, *along), mode="nearest")
    return smooth


def total_variation_3d(volume: np.ndarray, weight: float) -> np.ndarray:
    """Minimize total variation (Chambolle) with scikit-image's ``weight``; a step is a voxel, whatever its size."""
    if volume.shape[-1] == 1:
        return filters.total_variation(volume[..., 0], weight)[..., None]
    smooth: np.ndarray = restoration.denoise_tv_chambolle(volume, weight=weight, channel_axis=0)
    return smooth


def non_local_means_3d(volume: np.ndarray, h: float) -> np.ndarray:
    """Average voxels with alike 3x3x3 surroundings up to 3 voxels away; ``h`` is how far values may differ.

    The first and the last slice are repeated. In 2D surroundings and distances are wider, see
    :func:`~medrestore_monai.classical.filters.non_local_means`: in 3D they would take minutes for a volume.
    """
    if volume.shape[-1] == 1:
        return filters.non_local_means(volume[..., 0], h)[..., None]
    margin = PATCH // 2 + REACH
    options = {"patch_size": PATCH, "patch_distance": REACH, "h": h, "fast_mode": True}
    smooth = [
        restoration.denoise_nl_means(np.pad(one, [(0, 0), (0, 0), (margin, margin)], mode="edge"), **options)
        for one in volume
    ]
    return np.stack(smooth)[..., margin:-margin]
