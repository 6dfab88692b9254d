"""Which slices are true neighbors: a network with context sees those, and copies of the middle slice for the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["HALO", "SLICE_STEPS", "inner_slices", "neighbor_numbers", "slice_steps", "steps_of_affine"]

#: Key of the meta data: distance in mm from each slice to the next, 0 where the next is no neighbor.
SLICE_STEPS = "slice_steps"
#: Key of the meta data: how many slices at both ends were read for context only and are not restored.
HALO = "halo"

_ALIKE = 0.02  # distances that differ by less are equal
_LARGEST_SHIFT = 0.25  # pixels by which neighbors may be shifted against each other


def slice_steps(origins: np.ndarray, normal: np.ndarray, pixel: float) -> np.ndarray:
    """Distance from each slice of a stack to the next.

    Args:
        origins: position of the first pixel of each slice in mm, shape ``(Z, 3)``, in stack order.
        normal: unit vector perpendicular to the slices, shape ``(3,)``.
        pixel: smaller side of a pixel in mm.

    Returns:
        Distances in mm, shape ``(Z - 1,)``; 0 where a slice is shifted in its plane by more than a quarter of a pixel
        against the one before, as with a tilted gantry, or both lie in one plane.
    """
    moved = np.diff(np.asarray(origins, dtype=np.float64), axis=0)
    along = moved @ normal
    shift = np.linalg.norm(moved - along[:, None] * normal, axis=1)
    return np.where(shift <= _LARGEST_SHIFT * pixel, np.abs(along), 0.0)


def steps_of_affine(affine: np.ndarray, slices: int) -> np.ndarray:
    """Distances of the slices of a regular grid, see :func:`slice_steps`.

    Args:
        affine: from voxels to mm, shape ``(4, 4)``; slices run along the third axis.
        slices: how many.
    """
    axes = np.asarray(affine, dtype=np.float64)[:3, :3]
    normal = np.cross(axes[:, 0], axes[:, 1])
    length = np.linalg.norm(normal)
    if length == 0 or slices < 2:
        return np.zeros(max(slices - 1, 0))
    pixel = min(np.linalg.norm(axes[:, 0]), np.linalg.norm(axes[:, 1]))
    return slice_steps(np.arange(slices)[:, None] * axes[:, 2], normal / length, float(pixel))


def inner_slices(meta: Mapping[str, Any], count: int) -> slice:
    """Which slices of a slab are restored, those that are not its ``halo``.

    Args:
        meta: meta data of the slab.
        count: of its slices, with the halo.
    """
    before, after = (int(slices) for slices in meta.get(HALO, (0, 0)))
    return slice(before, count - after)


def neighbor_numbers(
    steps: Sequence[float] | np.ndarray, context: int, distance: Sequence[float] | None = None
) -> np.ndarray:
    """Which slice stands at each place of a slice's context.

    A slice is a true neighbor if all steps on the way to it are as long as the shorter of the two beside the middle
    slice. All others, beyond an end of the stack, a gap, or a change of spacing, are replaced by the middle slice.

    Args:
        steps: distances in mm of neighboring slices, shape ``(Z - 1,)``; 0 where there is no neighbor.
        context: neighbors on each side, ``K``.
        distance: range in mm of the distances that a network was trained on; ``None`` for any.

    Returns:
        Slice numbers, shape ``(Z, 2K + 1)``.
    """
    known = np.asarray(steps, dtype=np.float64)
    count = len(known) + 1
    numbers = np.repeat(np.arange(count)[:, None], 2 * context + 1, axis=1)
    if context == 0:
        return numbers
    usable = np.isfinite(known) & (known > 0)
    if distance is not None:
        usable &= (known >= distance[0] * (1 - _ALIKE)) & (known <= distance[1] * (1 + _ALIKE))
    lengths = np.pad(np.where(usable, known, np.inf), 1, constant_values=np.inf)  # step i leads to slice i
    shorter = np.minimum(lengths[:-1], lengths[1:])  # beside each slice
    middle = np.arange(count)
    for side, first in ((-1, 0), (1, 1)):
        reached = np.isfinite(shorter)
        for offset in range(1, context + 1):
            step = np.clip(middle + side * (offset - 1) + first, 0, count)
            longer, reference = (np.where(reached, values, 0.0) for values in (lengths[step], shorter))
            reached = reached & (np.abs(longer - reference) <= _ALIKE * reference)
            numbers[:, context + side * offset] = np.where(reached, middle + side * offset, middle)
    return numbers
