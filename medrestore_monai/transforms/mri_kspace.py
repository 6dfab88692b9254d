"""Coarse MRI: the periphery of k-space is not measured, and what was measured stays as it is.

A short scan measures the center of k-space only; filled up with zeros it becomes an image of the full matrix, blurred
and with Gibbs ringing. Images are magnitudes in the scanner's units; the phase is taken as zero, as in the papers.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor

__all__ = [
    "KSpaceConsistencyd",
    "KSpaceTruncationd",
    "RandKSpaceTruncationd",
    "keep_measured_kspace",
    "truncate_kspace",
]


def truncate_kspace(image: Tensor, fraction: float) -> Tensor:
    """Keep the central lines of k-space, fill the others with zeros, and return the magnitude.

    Of ``n`` lines, ``round(fraction * n)`` are kept, at least one, from ``-(m // 2)`` to ``m - m // 2 - 1`` around the
    center as a scanner samples them. ``fraction=0.25`` keeps a sixteenth of the samples, the protocol of
    Restore-RWKV 4.1.

    Args:
        image: magnitudes, shape ``(C, X, Y)`` or ``(C, X, Y, Z)``; each slice of a volume on its own.
        fraction: part of the lines kept along X and along Y, in (0, 1]; 1 changes nothing.

    Returns:
        Magnitudes of the same shape, float32 (float64 stays).

    Raises:
        ValueError: for another shape or fraction.
    """
    kept = _kept_lines(image, fraction)
    if fraction == 1:
        return _floating(image).clone()
    rows, columns = (_center(count, size) for count, size in zip(kept, image.shape[1:3], strict=True))
    k_space = torch.fft.fft2(_floating(image), dim=(1, 2))
    return torch.fft.ifft2(k_space * _mask(rows, columns, image), dim=(1, 2)).abs()


def keep_measured_kspace(restored: Tensor, measured: Tensor, fraction: float) -> Tensor:
    """Write the measured center of k-space back into a restored image (hard data consistency).

    The line at the negative edge of an even count has no partner on the other side, which a real image needs: it is
    left as restored.

    Of the measured image only the magnitude is there. Where ringing had gone below zero, in dark places, it was folded
    up, so its low frequencies are not quite those of the scan: a perfect restoration of real slices comes out of this
    with a PSNR of 41 to 56 dB.

    Args:
        restored: restored magnitudes, shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        measured: the image that was restored, same shape and unit.
        fraction: part of the lines that was measured, as in :func:`truncate_kspace`.

    Returns:
        ``restored`` with the low frequencies of ``measured``, same shape; it may have small negative values.

    Raises:
        ValueError: if shapes differ, and as :func:`truncate_kspace`.
    """
    if restored.shape != measured.shape:
        raise ValueError(f"restored {tuple(restored.shape)} and measured {tuple(measured.shape)} differ in shape.")
    kept = _kept_lines(restored, fraction)
    if fraction == 1:
        return _floating(measured).clone()
    # a real image: + and - frequencies go together
    rows, columns = (
        (torch.fft.fftfreq(size) * size).abs().round() < count / 2
        for count, size in zip(kept, restored.shape[1:3], strict=True)
    )
    difference = torch.fft.fft2(_floating(measured) - _floating(restored), dim=(1, 2))
    return _floating(restored) + torch.fft.ifft2(difference * _mask(rows, columns, restored), dim=(1, 2)).real


class RandKSpaceTruncationd(RandomizableTransform, MapTransform):
    """Truncate k-space to a fraction drawn for each item; it goes to ``data["kspace_truncation"]``.

    Args:
        keys: magnitudes, shape ``(C, X, Y)`` or ``(C, X, Y, Z)``, whole slices: a patch has another k-space.
        fraction: one fraction, or a range to draw from uniformly.
        prob: probability to truncate at all.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: for a range outside of (0, 1].
    """

    def __init__(
        self,
        keys: KeysCollection,
        fraction: float | Sequence[float] = 0.25,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        low, high = (fraction, fraction) if isinstance(fraction, (int, float)) else tuple(fraction)
        if not 0 < low <= high <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {fraction}.")
        self.low, self.high = float(low), float(high)
        self.fraction = self.high

    def randomize(self, data: Any = None) -> None:
        """Draw the fraction; every call draws the same count of numbers."""
        super().randomize(None)
        self.fraction = float(self.R.uniform(self.low, self.high))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images truncated."""
        self.randomize(None)
        return _truncated(self, data, self.fraction if self._do_transform else 1.0)


class KSpaceTruncationd(MapTransform):
    """Truncate k-space to one fraction: the fixed form for validation and tests.

    Args:
        keys: as in :class:`RandKSpaceTruncationd`.
        fraction: part of the lines kept, in (0, 1].
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: for another fraction.
    """

    def __init__(self, keys: KeysCollection, fraction: float = 0.25, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {fraction}.")
        self.fraction = float(fraction)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images truncated."""
        return _truncated(self, data, self.fraction)


class KSpaceConsistencyd(MapTransform):
    """Write the measured center of k-space back into restored images, as :func:`keep_measured_kspace`.

    Args:
        keys: restored images.
        like: key of the image that was restored, in the same unit.
        fraction: part of the lines that was measured; 0 switches the transform off.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: for a fraction outside of [0, 1].
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        like: str = "image",
        fraction: float = 0.25,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction must lie in [0, 1], got {fraction}.")
        self.like, self.fraction = like, float(fraction)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the measured frequencies in the restored images."""
        out = dict(data)
        if self.fraction == 0:
            return out
        for key in self.key_iterator(out):
            values = keep_measured_kspace(_plain(out[key]), _plain(out[self.like]), self.fraction)
            out[key] = MetaTensor(values).copy_meta_from(out[key]) if isinstance(out[key], MetaTensor) else values
        return out


def _truncated(transform: MapTransform, data: Mapping[Hashable, Any], fraction: float) -> dict[Hashable, Any]:
    out = dict(data)
    for key in transform.key_iterator(out):
        values = truncate_kspace(_plain(out[key]), fraction)
        out[key] = MetaTensor(values).copy_meta_from(out[key]) if isinstance(out[key], MetaTensor) else values
    out["kspace_truncation"] = {"fraction": fraction}
    return out


def _kept_lines(image: Tensor, fraction: float) -> tuple[int, int]:
    if image.ndim not in (3, 4) or 0 in image.shape:
        raise ValueError(f"Expected slices (C, X, Y) or volumes (C, X, Y, Z), got {tuple(image.shape)}.")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}.")
    rows, columns = (max(1, round(fraction * size)) for size in image.shape[1:3])
    return rows, columns


def _center(count: int, size: int) -> Tensor:
    """Which of ``size`` lines, in the order of the FFT, are the ``count`` central ones."""
    frequency = (torch.fft.fftfreq(size) * size).round()
    return (frequency >= -(count // 2)) & (frequency < count - count // 2)


def _mask(rows: Tensor, columns: Tensor, image: Tensor) -> Tensor:
    mask = (rows[:, None] & columns[None, :]).to(image.device)
    return mask[None] if image.ndim == 3 else mask[None, :, :, None]


def _floating(image: Tensor) -> Tensor:
    return image if image.dtype == torch.float64 else image.float()


def _plain(image: Tensor) -> Tensor:
    return image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image)
