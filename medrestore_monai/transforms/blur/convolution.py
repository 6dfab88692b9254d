"""Convolution of images with the kernel of a blur."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medrestore_monai.transforms.degradation import plain_slices

__all__ = ["blur"]


def blur(image: Tensor, kernel: np.ndarray) -> Tensor:
    """Convolve every slice with a kernel.

    The products are added up one kernel pixel after the other, so the result does not depend on the machine or on
    threads. The kernels here have few pixels that are not 0.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        kernel: weights, shape ``(A, B)``, both odd.

    Returns:
        The blurred image, same shape, float32 (float64 stays).

    Raises:
        ValueError: the image has another shape, or a side of the kernel is even.
    """
    values = plain_slices(image)
    if kernel.ndim != 2 or not all(side % 2 for side in kernel.shape):
        raise ValueError(f"kernel must be two-dimensional with odd sides, got the shape {kernel.shape}.")
    x, y = (_mirrored(size, side // 2) for size, side in zip(values.shape[1:3], kernel.shape, strict=True))
    padded = values[:, x.to(values.device)][:, :, y.to(values.device)]
    result = torch.zeros_like(values)
    for a, b in np.argwhere(kernel).tolist():
        # a convolution: the kernel is turned around
        first, second = kernel.shape[0] - 1 - a, kernel.shape[1] - 1 - b
        window = padded[:, first : first + values.shape[1], second : second + values.shape[2]]
        result += window * float(kernel[a, b])
    return result


def _mirrored(size: int, margin: int) -> Tensor:
    """Indices of ``size`` pixels and of their mirror images for ``margin`` more at either end, however many."""
    period = max(2 * (size - 1), 1)
    index = torch.arange(-margin, size + margin).remainder(period)
    return torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index)
