"""Where in a slice there is room for a lesion: in even tissue, away from its edges and from other lesions."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from medrestore_monai.audit.regions import CT_CLASSES, body_mask, smoothed

_MOST = 12  # in a slice
_MARGIN = 2.0  # mm between a lesion and the edge of the tissue
_SOFT = next(one for one in CT_CLASSES if one.name == "soft tissue")


def find_sites(
    label: np.ndarray, modality: str, pixel: tuple[float, float], diameter: float, seed: int
) -> list[tuple[int, int]]:
    """Choose places for the centers of lesions in a clean slice, at random in its more even half.

    Args:
        label: the slice, shape ``(X, Y)``.
        modality: of the image; CT has lesions in soft tissue alone.
        pixel: size in mm.
        diameter: of the largest lesion, in mm; centers are two of them apart, and one from the image's border.
        seed: of the choice.

    Returns:
        At most twelve places.
    """
    smooth = smoothed(label[..., None], pixel)[..., 0]
    inside = _SOFT.inside(smooth) if modality == "CT" else body_mask(smooth[..., None], modality)[..., 0]
    deep = distance_transform_edt(np.pad(inside, 1), sampling=pixel)[1:-1, 1:-1] > diameter / 2 + _MARGIN
    for axis, step in enumerate(pixel):
        border = int(np.ceil(diameter / step))
        deep[(slice(None),) * axis + (slice(0, border),)] = False
        deep[(slice(None),) * axis + (slice(max(label.shape[axis] - border, 0), None),)] = False
    if not deep.any() or min(label.shape) < 2:
        return []
    slope = np.gradient(smooth, *pixel)
    steep = gaussian_filter(slope[0] ** 2 + slope[1] ** 2, [diameter / 4 / step for step in pixel])
    if modality != "CT":  # contrasts are parts of the local mean
        steep = steep / np.maximum(np.abs(smooth), 1e-6) ** 2
    candidates = np.argwhere(deep & (steep <= np.median(steep[deep])))
    order = np.random.RandomState(seed).permutation(len(candidates))  # frozen, unlike a Generator
    chosen: list[tuple[int, int]] = []
    for x, y in candidates[order]:
        apart = [np.hypot((x - a) * pixel[0], (y - b) * pixel[1]) >= 2 * diameter for a, b in chosen]
        if all(apart):
            chosen.append((int(x), int(y)))
        if len(chosen) == _MOST:
            break
    return chosen
