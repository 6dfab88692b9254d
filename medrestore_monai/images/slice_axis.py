"""Across which axis of a volume its slices lie, for files that need not say so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["SLICE_DIM", "SLICE_ORDER", "choose_slice_axis", "slice_order"]

#: Key of the meta data: the axis that a NIfTI header names as that of the slices.
SLICE_DIM = "slice_dim"
#: Key of the meta data: which axes of the file became columns, rows and slices, where these are not 0, 1, 2.
SLICE_ORDER = "slice_order"

_ALIKE = 0.02  # spacings that differ by less are equal
_THIRD = 2


def choose_slice_axis(shape: Sequence[int], affine: np.ndarray, slice_dim: int | None = None) -> int:
    """Choose the axis that the slices of a volume lie across.

    It is ``slice_dim`` where a header has it; else the axis whose spacing is the odd one out, as two are equal within
    2 %; else the third. An axis of one voxel is always it.

    Args:
        shape: of the volume, ``(X, Y, Z)``.
        affine: from voxels to mm, shape ``(4, 4)``.
        slice_dim: 0, 1 or 2, as a NIfTI header has it.
    """
    single = [axis for axis, side in enumerate(shape) if side == 1]
    if single:
        return single[0] if len(single) == 1 else _THIRD
    if slice_dim is not None:
        return slice_dim
    spacing = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    # the axis that is left out of each pair of equal ones
    left_out = [
        axis
        for axis in range(3)
        if abs(spacing[axis - 1] - spacing[axis - 2]) <= _ALIKE * max(spacing[axis - 1], spacing[axis - 2])
    ]
    return left_out[0] if len(left_out) == 1 else _THIRD


def slice_order(affine: np.ndarray, axis: int) -> tuple[int, int, int]:
    """Which axes become columns, rows and slices: ``axis`` the slices, the others in the order of the patient's axes.

    A volume whose axes were exchanged thus comes out as it was. The third axis changes nothing.

    Args:
        affine: from voxels to mm, shape ``(4, 4)``.
        axis: that of the slices.
    """
    if axis == _THIRD:
        return 0, 1, 2
    toward = np.abs(np.asarray(affine, dtype=np.float64)[:3, :3]).argmax(axis=0)
    first, second = sorted((other for other in range(3) if other != axis), key=lambda other: toward[other])
    return first, second, axis
