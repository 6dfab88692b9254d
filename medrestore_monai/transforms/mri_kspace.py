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
    "RandMRAcquisitiond",
    "acquire_kspace",
    "keep_measured_kspace",
    "smooth_phase",
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


def acquire_kspace(
    image: Tensor,
    fraction: float,
    phase: Tensor | None = None,
    noise: Tensor | None = None,
    ellipse: bool = False,
    partial_fourier: float = 1.0,
) -> Tensor:
    """Measure a part of k-space of a complex, noisy slice, fill the rest with zeros, and return the magnitude.

    With the defaults, this is :func:`truncate_kspace`. Bernstein, King and Zhou, Handbook of MRI Pulse Sequences,
    13.4 (partial Fourier) and 13.1 (zero filling); the noise of the magnitude is Rician.

    Args:
        image: magnitudes, shape ``(C, X, Y)``.
        fraction: part of the lines measured along X and along Y, in (0, 1].
        phase: of each pixel, radian, broadcast to ``image``; ``None`` for zero.
        noise: complex, in the unit of ``image``, of the full matrix, shape as ``image``; ``None`` for no noise.
        ellipse: measure the ellipse within the rectangle of lines only.
        partial_fourier: part of the measured lines along Y that a partial Fourier scan measures, in [0.5, 1]; the
            lines of the most negative frequencies are missing.

    Returns:
        Magnitudes of the same shape, float32 (float64 stays).

    Raises:
        ValueError: if the shape, ``fraction`` or ``partial_fourier`` is invalid.
    """
    if image.ndim != 3:
        raise ValueError(f"Expected slices (C, X, Y), got {tuple(image.shape)}.")
    if not 0.5 <= partial_fourier <= 1:
        raise ValueError(f"partial_fourier must lie in [0.5, 1], got {partial_fourier}.")
    kept = _kept_lines(image, fraction)
    rows, columns = (_center(count, size) for count, size in zip(kept, image.shape[1:], strict=True))
    frequencies = [(torch.fft.fftfreq(size) * size).round() for size in image.shape[1:]]
    mask = rows[:, None] & columns[None, :]
    if ellipse:
        x, y = (2 * frequency / count for frequency, count in zip(frequencies, kept, strict=True))
        mask = mask & (x[:, None] ** 2 + y[None, :] ** 2 <= 1)
    if partial_fourier < 1:
        mask = mask & (frequencies[1] >= kept[1] / 2 - partial_fourier * kept[1])[None, :]
    values = _floating(image)
    signal = values if phase is None else torch.polar(values, phase.to(values).expand_as(values).contiguous())
    k_space = torch.fft.fft2(signal if noise is None else signal + noise, dim=(1, 2))
    return torch.fft.ifft2(k_space * mask.to(image.device), dim=(1, 2)).abs()


def smooth_phase(shape: Sequence[int], coefficients: Sequence[float]) -> Tensor:
    """Return a phase that varies slowly, as off-resonance and coils leave it: a polynomial of second order.

    Args:
        shape: rows and columns.
        coefficients: radian, of ``1, x, y, x^2, x y, y^2``, where ``x`` and ``y`` go from -1 to 1.

    Returns:
        The phase in radian, shape ``(1, *shape)``.

    Raises:
        ValueError: if there are not six coefficients.
    """
    if len(coefficients) != 6:
        raise ValueError(f"Expected 6 coefficients, got {len(coefficients)}.")
    x, y = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in shape), indexing="ij")
    terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])
    return torch.einsum("t,txy->xy", torch.as_tensor(coefficients, dtype=torch.float32), terms)[None]


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


class RandMRAcquisitiond(RandomizableTransform, MapTransform):
    """Measure a part of k-space as scans do: with phase, noise, elliptical windows and partial Fourier in part.

    What was drawn goes to ``data["mr_acquisition"]``. Apply it to whole slices: a patch has another k-space.

    Args:
        keys: magnitudes, shape ``(C, X, Y)``.
        fraction: range of the part of the lines along each axis, in (0, 1].
        phase: largest coefficient of :func:`smooth_phase`, radian.
        phase_prob: probability of a phase; else it is zero.
        noise: largest standard deviation of each part of the complex noise, relative to the slice's maximum; the level
            is drawn uniformly from 0 on.
        ellipse_prob: probability of an elliptical window.
        partial_fourier: smallest part of the lines of a partial Fourier scan.
        partial_prob: probability of partial Fourier.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if a range or a probability is invalid.
    """

    def __init__(
        self,
        keys: KeysCollection,
        fraction: Sequence[float] = (0.25, 0.5),
        phase: float = 2.0,
        phase_prob: float = 0.3,
        noise: float = 0.01,
        ellipse_prob: float = 0.15,
        partial_fourier: float = 0.625,
        partial_prob: float = 0.15,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        low, high = fraction
        if not 0 < low <= high <= 1:
            raise ValueError(f"fraction must be a range in (0, 1], got {fraction}.")
        for name, value in (("phase_prob", phase_prob), ("ellipse_prob", ellipse_prob), ("partial_prob", partial_prob)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}.")
        if not 0.5 <= partial_fourier <= 1 or noise < 0 or phase < 0:
            raise ValueError("partial_fourier must lie in [0.5, 1]; noise and phase must not be negative.")
        self.low, self.high, self.phase, self.phase_prob = float(low), float(high), float(phase), phase_prob
        self.noise, self.ellipse_prob = float(noise), ellipse_prob
        self.partial_fourier, self.partial_prob = float(partial_fourier), partial_prob

    def randomize(self, data: Any = None) -> None:
        """Draw the acquisition; every call draws the same count of numbers, but for the noise itself."""
        super().randomize(None)
        chance = self.R.uniform(size=3)
        coefficients = self.R.uniform(-self.phase, self.phase, size=6)
        partial = float(self.R.uniform(self.partial_fourier, 1))
        self.drawn: dict[str, Any] = {
            "fraction": float(self.R.uniform(self.low, self.high)),
            "noise": float(self.R.uniform(0, self.noise)),
            "phase": coefficients.tolist() if chance[0] < self.phase_prob else None,
            "ellipse": bool(chance[1] < self.ellipse_prob),
            "partial_fourier": partial if chance[2] < self.partial_prob else 1.0,
        }
        self.seed = int(self.R.randint(2**31))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images as measured."""
        self.randomize(None)
        out, drawn = dict(data), self.drawn
        for key in self.key_iterator(out):
            image = _floating(_plain(out[key]))
            phase = smooth_phase(image.shape[1:], drawn["phase"]) if drawn["phase"] else None
            white = torch.randn((2, *image.shape), generator=torch.Generator().manual_seed(self.seed))
            noise = torch.complex(white[0], white[1]) * float(drawn["noise"] * image.max())
            values = acquire_kspace(image, drawn["fraction"], phase, noise, drawn["ellipse"], drawn["partial_fourier"])
            out[key] = MetaTensor(values).copy_meta_from(out[key]) if isinstance(out[key], MetaTensor) else values
        out["mr_acquisition"] = dict(drawn)
        return out


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
