"""Convolution of images with the kernel of a blur."""

from __future__ import annotations

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from medrestore_monai.transforms.degradation import plain_slices

__all__ = ["blur"]

_MOST_PIXELS = 256  # of a kernel: with more, the FFT is faster for pictures of 100 to 1000 pixels


def blur(image: Tensor, kernel: np.ndarray) -> Tensor:
    """Convolve every slice with a kernel.

    The products are added up one kernel pixel after the other, so the result does not depend on the machine or on
    threads. Kernels with more than 256 pixels that are not 0 are applied by FFT: the same to float rounding.

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
    if np.count_nonzero(kernel) > _MOST_PIXELS:
        return _blur_by_fft(padded, kernel)
    result = torch.zeros_like(values)
    for a, b in np.argwhere(kernel).tolist():
        # a convolution: the kernel is turned around
        first, second = kernel.shape[0] - 1 - a, kernel.shape[1] - 1 - b
        window = padded[:, first : first + values.shape[1], second : second + values.shape[2]]
        result += window * float(kernel[a, b])
    return result


def _blur_by_fft(padded: Tensor, kernel: np.ndarray) -> Tensor:
    """Convolve ``(C, X, Y[, Z])`` in double precision; what the transform wraps around lies in the margin."""
    size = [next_fast_len(side, real=True) for side in padded.shape[1:3]]
    gain = torch.fft.rfft2(torch.from_numpy(kernel).to(padded.device), s=size)
    spectrum = torch.fft.rfft2(padded.double(), s=size, dim=(1, 2))
    spectrum *= gain[None, ..., None] if padded.ndim == 4 else gain
    whole = torch.fft.irfft2(spectrum, s=size, dim=(1, 2))
    x, y = (slice(side - 1, full) for side, full in zip(kernel.shape, padded.shape[1:3], strict=True))
    return whole[:, x, y].to(padded.dtype).contiguous()


def _mirrored(size: int, margin: int) -> Tensor:
    """Indices of ``size`` pixels and of their mirror images for ``margin`` more at either end, however many."""
    period = max(2 * (size - 1), 1)
    index = torch.arange(-margin, size + margin).remainder(period)
    return torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index)
