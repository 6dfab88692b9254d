"""Hot regions of a PET volume, and the SUVpeak in them."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.ndimage import binary_dilation, find_objects
from scipy.signal import fftconvolve

SEED = 2.5  # SUV
_GROWTH = 0.41  # of the maximum
_RADIUS = 6.2035  # mm, of a sphere of 1 ml
_STEP = 1.0  # mm
_PARTS = 7  # of a voxel along each axis, to find how much of it lies in the sphere
_CANDIDATES = 8  # voxels around which the center of the sphere moves in fine steps
_MOST_REGIONS = 8
_MOST_SEEDS = 40
_LEAST_VOLUME = 300.0  # mm^3: less is a peak of noise
_CORE = 0.7  # of the maximum: the background is measured around it
_SHELL = 3  # voxels around a region, its background


def find_hot_regions(suv: np.ndarray, spacing: tuple[float, float, float]) -> list[tuple[np.ndarray, str]]:
    """Find regions of a volume ``(X, Y, Z)`` in SUV, hottest first.

    From each maximum above SUV 2.5 a region grows in 3D to 41 % of that maximum. Where the background exceeds this, the
    region would leak, and it grows to halfway between background and maximum instead.

    Returns:
        Masks, and the rule that made each.
    """
    left = suv.copy()
    found: list[tuple[np.ndarray, str]] = []
    taken = np.zeros(suv.shape, dtype=bool)
    least = max(2, round(_LEAST_VOLUME / float(np.prod(spacing))))
    for _ in range(_MOST_SEEDS):
        top = np.unravel_index(int(np.argmax(left)), left.shape)
        if float(left[top]) < SEED or len(found) == _MOST_REGIONS:
            break
        mask, rule = _grown(suv, top, taken)
        box = _around(mask, 1)
        left[box][binary_dilation(mask[box])] = 0
        left[top] = 0
        if rule and int(mask.sum()) >= least:
            found.append((mask, rule))
            taken |= mask
    return found


def _grown(suv: np.ndarray, top: tuple[np.intp, ...], taken: np.ndarray) -> tuple[np.ndarray, str]:
    """Grow a region from its maximum; without a rule where it is the edge of one that is taken."""
    maximum = float(suv[top])
    core = _component(suv > _CORE * maximum, top)
    if taken[core].any():
        return core, ""
    box = _around(core, 2 * _SHELL)
    near, far = (binary_dilation(core[box], iterations=count * _SHELL) for count in (1, 2))
    shell = suv[box][far & ~near]
    background = float(np.median(shell)) if shell.size else 0.0
    if background <= _GROWTH * maximum:
        mask, rule = _component(suv > _GROWTH * maximum, top), "41 % of its maximum"
    else:
        mask, rule = _component(suv > 0.5 * (background + maximum), top), "halfway between background and maximum"
    return (core, "70 % of its maximum, beside a hotter region") if taken[mask].any() else (mask, rule)


def _component(above: np.ndarray, top: tuple[np.intp, ...]) -> np.ndarray:
    from skimage.segmentation import flood  # slow to import; restoring does not need it

    mask: np.ndarray = flood(above.view(np.uint8), tuple(int(index) for index in top), connectivity=1)
    return mask


def _around(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
    """Return the box of a mask, wider by ``margin`` voxels."""
    box = find_objects(mask.view(np.uint8))[0]
    return tuple(slice(max(part.start - margin, 0), part.stop + margin) for part in box)


def suv_peak(suv: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float]) -> float | None:
    """Return the highest mean of a sphere of 1 ml whose center lies in a region.

    Voxels count by the part of them that lies in the sphere; the center moves in steps of 1 mm.

    Args:
        suv: shape ``(X, Y, Z)``.
        mask: the region, of the same shape.
        spacing: in mm.

    Returns:
        ``None`` where no such sphere lies within the volume.
    """
    reach = [int(np.ceil(_RADIUS / step + 0.5)) for step in spacing]
    box = tuple(
        slice(max(int(at.min()) - margin, 0), int(at.max()) + margin + 1)
        for at, margin in zip(np.nonzero(mask), reach, strict=True)
    )
    # beyond the volume nothing is known: such centers are left out
    padding = [(margin, margin) for margin in reach]
    values, known, centers = (np.pad(one[box].astype(np.float64), padding) for one in (suv, np.ones_like(suv), mask))
    middle = _sphere(spacing, reach, (0.0, 0.0, 0.0))
    coarse, whole = (fftconvolve(one, middle[::-1, ::-1, ::-1], mode="same") for one in (values, known))
    coarse[(centers < 0.5) | (whole < 1 - 1e-6)] = -np.inf
    order = np.argsort(coarse, axis=None)[-_CANDIDATES:]
    steps = [np.arange(-0.5, 0.5, min(_STEP / step, 1.0)).tolist() for step in spacing]
    kernels = [middle, *(_sphere(spacing, reach, shift) for shift in itertools.product(*steps))]
    means = [-np.inf]
    for at in zip(*np.unravel_index(order, coarse.shape), strict=True):
        if np.isfinite(coarse[at]):
            around = tuple(slice(index - margin, index + margin + 1) for index, margin in zip(at, reach, strict=True))
            whole_kernels = [kernel for kernel in kernels if (kernel * known[around]).sum() > 1 - 1e-6]
            means += [float((kernel * values[around]).sum()) for kernel in whole_kernels]
    return max(means) if np.isfinite(max(means)) else None


def _sphere(spacing: tuple[float, float, float], reach: list[int], shift: tuple[float, ...]) -> np.ndarray:
    """Return the parts of voxels in a sphere whose center is ``shift`` voxels from the middle, with the sum 1."""
    fine = (np.arange(_PARTS) + 0.5) / _PARTS - 0.5
    squares = []
    for step, margin, offset in zip(spacing, reach, shift, strict=True):
        place = (np.arange(-margin, margin + 1)[:, None] + fine - offset) * step
        squares.append(place.ravel() ** 2)
    inside = squares[0][:, None, None] + squares[1][:, None] + squares[2] <= _RADIUS**2
    sizes = [2 * margin + 1 for margin in reach]
    parts = inside.reshape(sizes[0], _PARTS, sizes[1], _PARTS, sizes[2], _PARTS).mean(axis=(1, 3, 5))
    weights: np.ndarray = parts / parts.sum()
    return weights
