"""Haar wavelet transform of feature planes, orthonormal and exactly inverted, with PyWavelets' bands and signs."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["haar_dwt", "haar_iwt"]


def haar_dwt(x: Tensor) -> Tensor:
    """Split planes into four bands of half the size: one level of the two-dimensional Haar transform.

    Of each 2x2 block ``[[a, b], [c, d]]`` the bands hold ``(a + b + c + d) / 2`` (approximation),
    ``(a + b - c - d) / 2`` (horizontal), ``(a - b + c - d) / 2`` (vertical) and ``(a - b - c + d) / 2`` (diagonal
    details), as ``pywt.dwt2(x, "haar")`` does. An odd side is padded by its last row or column, PyWavelets' mode
    ``symmetric``. On even sides the transform is orthonormal: it keeps the sum of squares.

    Args:
        x: shape ``(B, C, H, W)``.

    Returns:
        Shape ``(B, 4 * C, ceil(H / 2), ceil(W / 2))``; the first ``C`` channels are the approximations of all
        channels, then come the horizontal, the vertical and the diagonal details.

    Raises:
        ValueError: the input has another rank or is empty.

    References:
        Lian and Wang, An image deblurring method using improved U-Net model based on multilayer fusion and attention
        mechanism, Scientific Reports 2023, eq. 1-6 (their filters are not normalized).
    """
    if x.ndim != 4 or x.numel() == 0:
        raise ValueError(f"expected a non-empty (B, C, H, W), got {tuple(x.shape)}.")
    if x.shape[2] % 2:
        x = torch.cat([x, x[:, :, -1:]], dim=2)
    if x.shape[3] % 2:
        x = torch.cat([x, x[..., -1:]], dim=3)
    top, bottom = x[:, :, ::2], x[:, :, 1::2]
    x = torch.cat([top + bottom, top - bottom], dim=1)
    left, right = x[..., ::2], x[..., 1::2]
    return torch.cat([left + right, left - right], dim=1) / 2


def haar_iwt(bands: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Put the bands of :func:`haar_dwt` together again.

    Args:
        bands: shape ``(B, 4 * C, H, W)``, ordered as :func:`haar_dwt` gives them.
        size: height and width of the result, to drop what :func:`haar_dwt` padded; ``(2 * H, 2 * W)`` by default.

    Returns:
        Shape ``(B, C, *size)``.

    Raises:
        ValueError: the input has another rank, is empty or does not hold four bands; or no image of ``size`` has bands
            of this size.
    """
    if bands.ndim != 4 or bands.numel() == 0 or bands.shape[1] % 4:
        raise ValueError(f"expected a non-empty (B, 4 * C, H, W), got {tuple(bands.shape)}.")
    height, width = bands.shape[2:]
    if size is not None and ((size[0] + 1) // 2 != height or (size[1] + 1) // 2 != width):
        raise ValueError(f"bands of {height}x{width} are not those of an image of {size[0]}x{size[1]}.")
    approximation, horizontal, vertical, diagonal = bands.chunk(4, dim=1)
    if not torch.is_grad_enabled() and bands.is_contiguous(memory_format=torch.channels_last):
        image = _put_together(approximation, horizontal, vertical, diagonal)
        return image if size is None else image[:, :, : size[0], : size[1]]
    low, high = (approximation + horizontal) / 2, (vertical + diagonal) / 2
    top = torch.stack([low + high, low - high], dim=-1).flatten(-2)
    low, high = (approximation - horizontal) / 2, (vertical - diagonal) / 2
    bottom = torch.stack([low + high, low - high], dim=-1).flatten(-2)
    image = torch.stack([top, bottom], dim=-2).flatten(-3, -2)
    return image if size is None else image[:, :, : size[0], : size[1]]


def _put_together(approximation: Tensor, horizontal: Tensor, vertical: Tensor, diagonal: Tensor) -> Tensor:
    """The same without gradients, for channels that lie last in memory, where they stay."""
    batch, channels, height, width = approximation.shape
    size = (batch, channels, 2 * height, 2 * width)
    image = torch.empty(size, dtype=approximation.dtype, device=approximation.device, memory_format=torch.channels_last)
    for row, sign in ((0, 1), (1, -1)):
        low, high = torch.add(approximation, horizontal, alpha=sign) / 2, torch.add(vertical, diagonal, alpha=sign) / 2
        torch.add(low, high, out=image[:, :, row::2, ::2])
        torch.sub(low, high, out=image[:, :, row::2, 1::2])
    return image
