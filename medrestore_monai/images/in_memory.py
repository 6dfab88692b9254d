"""Images in memory: NumPy arrays, tensors, images of nibabel and SimpleITK; a result of the same kind comes back."""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from medrestore_monai.images.files import are_too_large, scaled, stored_values
from medrestore_monai.images.nifti import nifti_meta, write_nifti
from medrestore_monai.images.slice_axis import SLICE_DIM, choose_slice_axis, slice_order
from medrestore_monai.neighbors import SLICE_STEPS, steps_of_affine
from medrestore_monai.notes import note

__all__ = ["MemoryImage", "open_in_memory"]

# what a reader has noted of a tensor's values; it holds for the tensor as it does for the file
_KEPT = ("modality", "unit", "suv_factor", "suv_missing", "intensity_range", "original_dtype")


@dataclass(frozen=True)
class MemoryImage:
    """One image as a loader takes it, and the way back.

    Args:
        array: float32, shape ``(X, Y[, Z])`` or ``(3, X, Y)``; NaN is padding.
        meta: as of :func:`~medrestore_monai.images.read_image`.
        like: makes an image of the kind that was given from a restored ``array``.
    """

    array: np.ndarray
    meta: dict[str, Any]
    like: Callable[[np.ndarray], Any]


class _Axes(NamedTuple):
    """The way from the axes of an array to ``(X, Y[, Z])`` or ``(3, X, Y)``.

    Args:
        channel: the first axis is a single channel, which is left out.
        order: of the other axes.
        color: the result is ``(3, X, Y)``.
    """

    channel: bool
    order: tuple[int, ...]
    color: bool = False

    def apply(self, array: np.ndarray) -> np.ndarray:
        return (array[0] if self.channel else array).transpose(self.order)

    def undo(self, array: np.ndarray) -> np.ndarray:
        given = array.transpose(np.argsort(self.order))
        return given[None] if self.channel else given


def open_in_memory(
    image: Any,
    picture: bool = False,
    color: bool = False,
    spacing: Sequence[float] | None = None,
    slice_axis: int | None = None,
) -> MemoryImage:
    """Take an image in memory as a reader takes a file.

    Args:
        image: a NumPy array or tensor, shape ``(X, Y[, Z])``, or one channel before that; ``(rows, columns, 3)`` of a
            color picture, ``(rows, columns)`` of a gray one. A ``MetaTensor`` has its channels first, as everywhere in
            MONAI, or none. Or a ``Nifti1Image`` or ``Nifti2Image`` of nibabel, or an image of SimpleITK.
        picture: the first two axes are rows and columns.
        color: an array with three channels is a color picture.
        spacing: mm along each axis of an array, without the channels.
        slice_axis: which of these axes runs along the slices; by default the last one, and of images of nibabel and
            SimpleITK the one that :func:`~medrestore_monai.images.choose_slice_axis` finds.

    Raises:
        TypeError: ``image`` is something else, or holds no numbers.
        ValueError: it has another shape, infinite values or none but NaN, or integers that are too large; its slices
            seem to come first, and ``slice_axis`` is not given; or it has a spacing of its own.
    """
    if isinstance(image, np.ndarray):
        return _open_array(image, picture, color, spacing, slice_axis)
    if isinstance(image, MetaTensor):
        return _open_meta_tensor(image, color, spacing, slice_axis)
    if isinstance(image, torch.Tensor):
        opened = _open_array(_numpy(image), picture, color, spacing, slice_axis)
        return MemoryImage(opened.array, opened.meta, lambda restored: _tensor(opened.like(restored), image))
    itk = sys.modules.get("SimpleITK")  # who has such an image has imported it
    if isinstance(image, nib.Nifti1Image) or (itk is not None and isinstance(image, itk.Image)):
        if spacing is not None:
            raise ValueError(f"{type(image).__name__} has a spacing of its own: leave spacing out.")
        is_nifti = isinstance(image, nib.Nifti1Image)
        return _open_nifti(image, slice_axis) if is_nifti else _open_itk(image, picture, color, slice_axis, itk)
    raise TypeError(
        "the image must be a NumPy array, a tensor, or an image of nibabel (NIfTI) or SimpleITK, got "
        f"{type(image).__name__}."
    )


def _open_array(
    values: np.ndarray, picture: bool, color: bool, spacing: Sequence[float] | None, slice_axis: int | None
) -> MemoryImage:
    axes = _axes(values.shape, picture, color, slice_axis)
    if slice_axis is None and not axes.color:
        _refuse_slices_first(values.shape[axes.channel :])
    affine = None if spacing is None or axes.color else _affine_of(spacing, len(axes.order))
    return MemoryImage(*_opened(values, axes, affine), lambda restored: _as_type(axes.undo(restored), values))


def _open_meta_tensor(
    image: MetaTensor, color: bool, spacing: Sequence[float] | None, slice_axis: int | None
) -> MemoryImage:
    values = _numpy(image)
    if values.ndim == 3 and values.shape[0] == 3 and color:
        axes = _Axes(False, (0, 1, 2), True)
    elif values.ndim == 3 and values.shape[0] == 1 and slice_axis is None:
        axes = _Axes(True, (0, 1))
    else:
        axes = _axes(values.shape, False, False, slice_axis)
    own = np.asarray(image.affine, dtype=np.float64)
    affine = own if spacing is None or axes.color else _affine_of(spacing, len(axes.order))
    array, meta = _opened(values, axes, affine)
    meta.update({key: image.meta[key] for key in _KEPT if key in image.meta})
    if SLICE_STEPS in image.meta and spacing is None and slice_axis is None:
        meta[SLICE_STEPS] = image.meta[SLICE_STEPS]

    def like(restored: np.ndarray) -> MetaTensor:
        result = _tensor(_as_type(axes.undo(restored), values), image)
        done = copy.deepcopy(image.applied_operations)
        return MetaTensor(result, meta=copy.deepcopy(image.meta), applied_operations=done)

    return MemoryImage(array, meta, like)


def _open_nifti(image: Any, slice_axis: int | None) -> MemoryImage:
    meta, proxy = nifti_meta(image), image.dataobj
    stored = np.asanyarray(proxy.get_unscaled() if hasattr(proxy, "get_unscaled") else proxy)
    if any(side != 1 for side in stored.shape[3:]):
        raise ValueError(f"expected one 2D image or 3D volume, got a series of shape {stored.shape}: split it first.")
    stored = stored.reshape(stored.shape[:3])
    axes = _Axes(False, _order_in_space(stored.shape, meta["affine"], slice_axis, meta.get(SLICE_DIM)))
    values = scaled(stored, meta["scl_slope"], meta["scl_inter"])
    array, noted = _opened(values, axes, meta["affine"])
    noted["original_dtype"] = stored.dtype.name
    if stored.dtype.kind in "iu" and are_too_large(values, meta["scl_slope"]):
        note("float32 cannot hold the numbers of the image exactly: the result is of type float32.", 4)
        noted["original_dtype"] = "float32"
    kept = {**meta, "original_dtype": noted["original_dtype"], "spatial_shape": np.asarray(stored.shape)}
    kept["nan_voxels"] = noted.get("nan_voxels", 0)

    def like(restored: np.ndarray) -> Any:
        given, file = axes.undo(restored), io.BytesIO()
        if stored.dtype == np.float64:
            write_nifti(file, _as_type(given, stored * meta["scl_slope"] + meta["scl_inter"]), kept)
        else:
            write_nifti(file, stored_values("the image", "nifti", given, kept), kept)
        result = type(image).from_bytes(file.getvalue())
        if noted["original_dtype"] == stored.dtype.name:
            result.set_data_dtype(image.get_data_dtype())
        return result

    return MemoryImage(array, noted, like)


def _open_itk(image: Any, picture: bool, color: bool, slice_axis: int | None, itk: Any) -> MemoryImage:
    values = itk.GetArrayFromImage(image)  # (z, y, x), or (y, x, 3)
    if image.GetNumberOfComponentsPerPixel() > 1:
        if not color or values.ndim != 3 or values.shape[2] != 3:
            raise ValueError(f"expected one gray image, got {values.shape[-1]} components per voxel.")
        axes, affine = _Axes(False, (2, 1, 0), True), None
    else:
        whole = _affine_of_itk(image) if values.ndim == 3 else np.eye(4)
        order = _order_in_space(values.shape[::-1], whole, slice_axis)
        axes = _Axes(False, tuple(values.ndim - 1 - axis for axis in order))
        affine = whole[:, [*order, 3]] if values.ndim == 3 else None
    array, meta = _opened(values, axes, affine, of_axes=False)

    def like(restored: np.ndarray) -> Any:
        given = np.ascontiguousarray(_as_type(axes.undo(restored), values))
        result = itk.GetImageFromArray(given, isVector=axes.color)
        result.CopyInformation(image)
        for key in image.GetMetaDataKeys():
            result.SetMetaData(key, image.GetMetaData(key))
        return result

    return MemoryImage(array, meta, like)


def _axes(shape: tuple[int, ...], picture: bool, color: bool, slice_axis: int | None) -> _Axes:
    """Return the axes of an array without channels, or with one before or three behind."""
    if color and len(shape) == 3 and shape[2] == 3:
        return _Axes(False, (2, 1, 0), True)
    channel = len(shape) == 4 and shape[0] == 1
    sides = shape[1:] if channel else shape
    if len(sides) not in (2, 3) or 0 in sides or (color and channel and sides[-1] == 3):  # a batch of pictures?
        hint = ", or a color picture (rows, columns, 3)" * color
        raise ValueError(f"expected one 2D image or 3D volume{hint}, got the shape {tuple(shape)}.")
    order = list(range(len(sides)))
    if slice_axis is not None and not (len(sides) == 3 and -3 <= slice_axis < 3):
        raise ValueError(f"slice_axis is one of the axes 0, 1, 2 of a volume, got {slice_axis} for {tuple(shape)}.")
    if len(sides) == 3:
        order.append(order.pop(-1 if slice_axis is None else slice_axis))
    if picture:
        order[:2] = order[1::-1]
    return _Axes(channel, tuple(order))


def _order_in_space(
    shape: tuple[int, ...], affine: np.ndarray, slice_axis: int | None, slice_dim: int | None = None
) -> tuple[int, ...]:
    """Which axes of an image that knows its place become columns, rows and slices; the rule is that of files."""
    order = _axes(shape, False, False, slice_axis).order
    if len(shape) < 3:
        return order
    axis = choose_slice_axis(shape, affine, slice_dim) if slice_axis is None else slice_axis % 3
    if slice_axis is None and axis != 2:
        note(
            f"By its spacing or header, the slices of the image lie across axis {axis}, not the third; if they do not, "
            "give `slice_axis`, 0 to 2.",
            5,
        )
    return slice_order(affine, axis)


def _refuse_slices_first(shape: Sequence[int]) -> None:
    """Refuse a volume that seems to have its slices first: behind them is a square, or two sides twice as long."""
    if len(shape) == 3 and shape[0] < min(shape[1:]) and (shape[1] == shape[2] or 2 * shape[0] <= min(shape[1:])):
        raise ValueError(
            f"the shape {tuple(shape)} looks as if the slices came first: give slice_axis=0 if they do, slice_axis=-1 "
            "if they come last."
        )


def _opened(
    values: np.ndarray, axes: _Axes, affine: np.ndarray | None, of_axes: bool = True
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the array that a loader takes, and its meta data.

    Args:
        values: as they were given.
        axes: the way to ``(X, Y[, Z])`` or ``(3, X, Y)``.
        affine: where the image lies, if that is known.
        of_axes: ``affine`` is of the axes of ``values``, not of the result.
    """
    if values.dtype.kind not in "iuf":
        raise TypeError(f"the image must hold integers or real numbers, got {values.dtype}.")
    array = np.ascontiguousarray(axes.apply(values), dtype=np.float32)
    bad, padding = int(np.isinf(array).sum()), int(np.isnan(array).sum())
    if bad or padding == array.size:
        raise ValueError(f"the image has {bad or padding} infinite or NaN values: expected finite ones.")
    if values.dtype.kind in "iu" and are_too_large(array):
        raise ValueError(f"the integers of the image are too large to be restored exactly, expected at most {2**22}.")
    meta: dict[str, Any] = {
        "affine": np.eye(4),
        "original_dtype": values.dtype.name,
        "original_channel_dim": 0 if axes.color else float("nan"),
        "spatial_shape": np.asarray(array.shape[-2:] if axes.color else array.shape),
    }
    if padding:
        meta["nan_voxels"] = padding
    if affine is not None and not axes.color:
        columns = [*axes.order, *range(len(axes.order), 4)]
        meta["affine"] = affine[:, columns] if of_axes else affine
        if array.ndim == 3:
            meta[SLICE_STEPS] = steps_of_affine(meta["affine"], array.shape[2])
    return array, meta


def _affine_of(spacing: Sequence[float], count: int) -> np.ndarray:
    sizes = np.asarray(spacing, dtype=np.float64)
    if sizes.shape != (count,) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError(f"spacing must be {count} numbers of mm above 0, got {spacing}.")
    return np.diag([*sizes, *np.ones(4 - count)])


def _affine_of_itk(image: Any) -> np.ndarray:
    """Return the affine (RAS, mm) of a volume, from ITK's directions and origin, which are LPS."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(image.GetDirection()).reshape(3, 3) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _numpy(image: torch.Tensor) -> np.ndarray:
    values = image.detach().cpu().as_subclass(torch.Tensor)
    result: np.ndarray = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return result


def _tensor(values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device, like.dtype)


def _as_type(restored: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Bring a float32 result to the type of ``values``, which it was made from."""
    dtype = values.dtype
    if dtype == np.float64:
        note("The result is float64 like the image, but was computed in float32: about 7 digits are exact.", 4)
        return np.where(restored == values.astype(np.float32), values, restored.astype(np.float64))
    if dtype.kind == "f":
        return restored.astype(dtype)
    limits = np.iinfo(dtype)
    whole = np.rint(restored.astype(np.float64))
    inside = whole.clip(limits.min, limits.max)
    clipped = int(np.count_nonzero(inside != whole))
    more = f"; {clipped} of {inside.size} lay outside of its range and were clipped" if clipped else ""
    note(f"The restored values were rounded to {dtype}{more}.", 4)
    return inside.astype(dtype)
