"""What the quantum noise of a CT slice looks like: its spectrum, its place and direction, its level.

Three things describe it. The *kernel* of the reconstruction gives the noise power spectrum: a ramp times the squared
apodization, here a Gaussian whose ``cutoff`` (cycles/mm) is the one number for "soft" to "sharp". The *object* gives
place and direction: the noise that a view leaves in a pixel grows with ``exp(line integral)``, and lies along the
direction in which that view's detector runs. The *dose* gives the level, which is measured in the slice itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from medrestore_monai.ops.radon import parallel_backproject, parallel_project, view_angles

__all__ = [
    "CTNoise",
    "NoFlatTissueError",
    "SHARP_CUTOFF",
    "SOFT_CUTOFF",
    "ct_noise_map",
    "estimate_ct_noise",
    "flat_soft_tissue",
    "kernel_gain",
    "log_variance",
    "noise_spectrum",
    "shape_noise",
    "total_noise_std",
]

WATER_ATTENUATION = 0.0192  # per mm, about 70 keV, the mean energy of a 120 kVp beam
SOFT_CUTOFF = 0.41  # cycles/mm, matches Siemens B30f
SHARP_CUTOFF = 3.0  # cycles/mm, like Siemens D45f: no roll-off that the pixels would show
BOWTIE_RADIUS = 200.0  # mm, radius of the water cylinder that the bow-tie filter evens out in part
BOWTIE_STRENGTH = 0.7  # part of that cylinder's attenuation which the filter has
TUBE_MODULATION = 0.2  # tube current follows exp(0.2 * attenuation of the view)

_NOISE_FLOOR = 0.03  # cycles/mm, keeps the spectrum above zero at frequency zero, as measured
_EDGE = 1.15  # times the Nyquist frequency of the pixels, where a scanner's image ends
_GRID = 128  # pixels of the coarse slice on which line integrals are computed
_VIEWS = 60
_BANDS = ((0.55, 0.36), (0.9, 0.6))  # centers: part of the Nyquist frequency, at most so many cycles/mm
_BAND_WIDTH = 0.08  # cycles/mm


class NoFlatTissueError(ValueError):
    """A slice shows too little soft tissue for its noise to be measured."""


@dataclass(frozen=True)
class CTNoise:
    """Noise measured in a slice.

    Args:
        std: standard deviation in HU, median over soft tissue.
        scale: standard deviation in HU where the relative noise map is 1.
        cutoff: kernel sharpness in cycles/mm.
    """

    std: float
    scale: float
    cutoff: float


def kernel_gain(frequency: Tensor, cutoff: float, spacing: float) -> Tensor:
    """Apodization of the ramp filter at ``frequency`` (cycles/mm): Gaussian, ended near the pixels' Nyquist frequency.

    Args:
        frequency: in cycles/mm, any shape, not negative.
        cutoff: frequency in cycles/mm where the Gaussian is ``1 / e``; 0.41 is soft (B30f), 3.0 sharp (D45f).
        spacing: pixel size in mm.

    Returns:
        Gain in 0..1, of the shape of ``frequency``.

    Raises:
        ValueError: unless ``cutoff`` and ``spacing`` are positive.
    """
    if cutoff <= 0 or spacing <= 0:
        raise ValueError(f"cutoff and spacing must be positive, got {cutoff} and {spacing}.")
    edge = _EDGE / (2 * spacing)
    return torch.exp(-((frequency / cutoff) ** 2)) / torch.sqrt(1 + (frequency / edge) ** 16)


def noise_spectrum(size: tuple[int, int], cutoff: float, spacing: float, reference: float | None = None) -> Tensor:
    """Square root of the noise power spectrum of FBP, for ``torch.fft.rfft2`` of an image of ``size``.

    Args:
        size: image size ``(X, Y)``.
        cutoff: kernel sharpness in cycles/mm.
        spacing: pixel size in mm.
        reference: kernel for which filtered white noise keeps its standard deviation; ``cutoff`` by default. A sharper
            kernel makes more noise of the same raw data.

    Returns:
        Gain, shape ``(X, Y // 2 + 1)``.

    Raises:
        ValueError: unless cutoffs and ``spacing`` are positive.
    """
    fx, fy = _frequencies(size, spacing)
    frequency = torch.sqrt(fx * fx + fy * fy)
    ramp = (frequency.square() + _NOISE_FLOOR**2) ** 0.25
    gain = ramp * kernel_gain(frequency, cutoff, spacing)
    norm = gain if reference is None else ramp * kernel_gain(frequency, reference, spacing)
    twice = torch.full((size[1] // 2 + 1,), 2.0)  # the half that rfft2 leaves out
    twice[0] = 1
    if size[1] % 2 == 0:
        twice[-1] = 1
    return gain / torch.sqrt((norm.square() * twice).sum() / (size[0] * size[1]))


def shape_noise(white: Tensor, noise_map: Tensor, spectrum: Tensor) -> Tensor:
    """Give white noise the spectrum of a kernel, and the place and direction of a noise map.

    Args:
        white: independent normal values of variance 1, shape ``(X + 2 m, Y + 2 m)`` with a margin ``m >= 0`` that keeps
            the wrap-around of the Fourier filter out of the picture.
        noise_map: standard deviation per direction as of :func:`ct_noise_map`, in HU, shape ``(D, X, Y)``.
        spectrum: as of :func:`noise_spectrum` for the size of ``white``.

    Returns:
        Noise in HU, shape ``(1, X, Y)``.

    Raises:
        ValueError: if the two sizes do not fit.
    """
    margin = (white.shape[0] - noise_map.shape[1]) // 2
    if margin < 0 or tuple(white.shape) != tuple(side + 2 * margin for side in noise_map.shape[1:]):
        raise ValueError(
            f"noise of shape {tuple(white.shape)} does not surround a map of shape {tuple(noise_map.shape)}."
        )
    size = (white.shape[0], white.shape[1])
    filtered = torch.fft.rfft2(white) * spectrum
    layers = torch.fft.irfft2(filtered * _direction_weights(size, noise_map.shape[0]), s=size)
    inner = layers[:, margin : margin + noise_map.shape[1], margin : margin + noise_map.shape[2]]
    return (inner * noise_map).sum(dim=0, keepdim=True)


def total_noise_std(noise_map: Tensor) -> Tensor:
    """Standard deviation over all directions, shape ``(1, X, Y)``, of a map per direction, shape ``(D, X, Y)``."""
    if noise_map.shape[0] < 3:
        return noise_map.square().mean(dim=0, keepdim=True).sqrt()
    neighbors = noise_map * noise_map.roll(-1, dims=0)  # linear interpolation between the directions, squared
    return ((2 * noise_map.square() + neighbors).mean(dim=0, keepdim=True) / 3).sqrt()


def log_variance(
    integrals: Tensor,
    pitch: float,
    bowtie_radius: float | None = BOWTIE_RADIUS,
    modulation: float = TUBE_MODULATION,
) -> Tensor:
    """Relative quantum variance of line integrals after the logarithm: 1 for a ray through air in the middle.

    Args:
        integrals: line integrals, shape ``(B, C, views, detectors)``.
        pitch: distance of neighboring rays at the rotation axis in mm.
        bowtie_radius: radius in mm of the water cylinder the bow-tie filter is made for; ``None`` for no filter.
        modulation: how far the tube current follows the attenuation of a view: 0 not at all, 1 fully.

    Returns:
        ``exp(integral + bow-tie attenuation) / relative tube current``, of the shape of ``integrals``.
    """
    strongest = integrals.flatten(0, 1).amax(dim=0)  # (views, detectors)
    strongest = strongest.topk(max(1, strongest.shape[-1] // 6), dim=-1).values.mean(dim=-1)
    current = modulation * (strongest - strongest.mean())
    bowtie = torch.zeros(integrals.shape[-1], device=integrals.device)
    if bowtie_radius is not None:
        position = torch.arange(integrals.shape[-1], device=integrals.device) - (integrals.shape[-1] - 1) / 2
        relative = (position * pitch / bowtie_radius).abs().clamp(max=0.95)
        bowtie = BOWTIE_STRENGTH * WATER_ATTENUATION * 2 * bowtie_radius * (1 - torch.sqrt(1 - relative**2))
    return torch.exp(integrals + bowtie - current[:, None])


def ct_noise_map(
    hu: Tensor,
    spacing: float,
    directions: int = 4,
    bowtie_radius: float | None = BOWTIE_RADIUS,
    modulation: float = TUBE_MODULATION,
) -> Tensor:
    """Relative standard deviation of the quantum noise per pixel and direction, from the attenuation of the slice.

    The mean of ``exp(line integral)`` over the rays through a pixel, on a coarse grid (128 pixels, 60 views), which a
    smooth function like this one allows. A ray of view angle ``t`` leaves noise of wave vectors along ``t`` only.

    Args:
        hu: whole slice in HU, shape ``(1, X, Y)``.
        spacing: pixel size in mm.
        directions: number of directions, evenly spread over 180 degrees; 1 for isotropic noise.
        bowtie_radius: see :func:`log_variance`.
        modulation: see :func:`log_variance`.

    Returns:
        Map of shape ``(directions, X, Y)``, relative to a scan of air; multiply by a level in HU.

    Raises:
        ValueError: if ``hu`` is not one slice, or ``directions`` does not divide 60.
    """
    _check_slice(hu)
    if directions < 1 or _VIEWS % directions:
        raise ValueError(f"directions must divide {_VIEWS}, got {directions}.")
    shape = (hu.shape[1], hu.shape[2])
    factor = max(1.0, max(shape) / _GRID)
    coarse = (max(1, round(shape[0] / factor)), max(1, round(shape[1] / factor)))
    attenuation = F.interpolate((hu[None] / 1000 + 1).clamp(min=0) * WATER_ATTENUATION, size=coarse, mode="area")
    angles = view_angles(_VIEWS, device=hu.device)
    pitch = spacing * factor
    variance = log_variance(parallel_project(attenuation, angles, pitch), pitch, bowtie_radius, modulation)
    per_sector = _VIEWS // directions
    variance = variance.roll(per_sector // 2, dims=2)  # a sector is centered on its direction
    maps = [
        parallel_backproject(part, sector, coarse, pitch)
        for part, sector in zip(
            variance.split(per_sector, dim=2), angles.roll(per_sector // 2).split(per_sector), strict=True
        )
    ]
    std = (torch.cat(maps, dim=1) / per_sector).sqrt()
    return F.interpolate(std, size=shape, mode="bilinear", align_corners=False)[0]


def estimate_ct_noise(
    hu: Tensor, spacing: float, noise_map: Tensor | None = None, cutoff: float | None = None
) -> CTNoise:
    """Measure the quantum noise that a slice already has: its level, and the sharpness of its kernel.

    Two band-passed copies of the slice are looked at in flat soft tissue (-100..200 HU, away from bone, lung and
    air); their robust spread (median absolute deviation) gives the level, the ratio of the two the kernel.

    Args:
        hu: whole slice in HU, shape ``(1, X, Y)``.
        spacing: pixel size in mm.
        noise_map: relative noise map of the slice; computed if left out.
        cutoff: sharpness of the kernel in cycles/mm where it is known; measured if left out.

    Returns:
        The measured noise.

    Raises:
        NoFlatTissueError: if the slice shows too little soft tissue to measure.
    """
    _check_slice(hu)
    relative = total_noise_std(ct_noise_map(hu, spacing) if noise_map is None else noise_map)[0]
    flat = flat_soft_tissue(hu[0], spacing)
    if int(flat.sum()) < 256:
        raise NoFlatTissueError(
            f"too little flat soft tissue ({int(flat.sum())} pixels) to measure the noise of this slice."
        )
    size = (hu.shape[1], hu.shape[2])
    fx, fy = _frequencies(size, spacing)
    frequency = torch.sqrt(fx * fx + fy * fy).to(hu)
    spectrum = torch.fft.rfft2(hu[0])
    measured, bands = [], []
    for part, most in _BANDS:
        center = min(part / (2 * spacing), most)
        band = torch.exp(-(((frequency - center) / _BAND_WIDTH) ** 2) / 2)
        values = (torch.fft.irfft2(spectrum * band, s=size) / relative)[flat]
        measured.append(1.4826 * float((values - values.median()).abs().median()))
        bands.append(band)
    cutoffs = [cutoff] if cutoff else torch.logspace(math.log10(0.2), math.log10(3.0), 48).tolist()
    fractions = [_band_stds(frequency.cpu(), c, spacing, [b.cpu() for b in bands]) for c in cutoffs]
    ratio = measured[1] / max(measured[0], 1e-6)
    best = min(range(len(cutoffs)), key=lambda i: abs(math.log(max(ratio, 1e-6) * fractions[i][0] / fractions[i][1])))
    scale = measured[0] / fractions[best][0]
    return CTNoise(std=scale * float(relative[flat].median()), scale=scale, cutoff=cutoffs[best])


def _check_slice(hu: Tensor) -> None:
    if hu.ndim != 3 or hu.shape[0] != 1:
        raise ValueError(f"expected one slice of shape (1, X, Y), got {tuple(hu.shape)}.")


def _frequencies(size: tuple[int, int], spacing: float) -> tuple[Tensor, Tensor]:
    """Frequencies of ``rfft2`` in cycles/mm, shapes ``(X, 1)`` and ``(1, Y // 2 + 1)``."""
    return torch.fft.fftfreq(size[0], d=spacing)[:, None], torch.fft.rfftfreq(size[1], d=spacing)[None, :]


@lru_cache(maxsize=8)
def _direction_weights(size: tuple[int, int], directions: int) -> Tensor:
    """Hat functions of the wave vector's angle that sum to 1, shape ``(directions, X, Y // 2 + 1)``."""
    fx, fy = _frequencies(size, 1.0)
    sector = torch.atan2(fy, fx) % math.pi * (directions / math.pi)
    distance = (sector - torch.arange(directions)[:, None, None]).abs()
    return (1 - torch.minimum(distance, directions - distance)).clamp(min=0) if directions > 1 else torch.ones(1, 1, 1)


def flat_soft_tissue(hu: Tensor, spacing: float) -> Tensor:
    """Mask of a slice ``(X, Y)`` in HU, where noise can be measured.

    Its smoothed value is in -100..200 HU for 6 mm around; of such places, the flatter half.
    """
    fx, fy = _frequencies((hu.shape[0], hu.shape[1]), spacing)
    smooth_gain = torch.exp(-2 * (math.pi * 2.5) ** 2 * (fx * fx + fy * fy)).to(hu)
    smooth = torch.fft.irfft2(torch.fft.rfft2(hu) * smooth_gain, s=hu.shape)
    outside = ((smooth < -100) | (smooth > 200)).float()
    radius = max(1, round(6 / spacing))
    inside = F.max_pool2d(outside[None], 2 * radius + 1, stride=1, padding=radius)[0] == 0
    slope = torch.stack(torch.gradient(smooth)).square().sum(dim=0)
    if not bool(inside.any()):
        return inside
    return inside & (slope <= slope[inside].median())


def _band_stds(frequency: Tensor, cutoff: float, spacing: float, bands: list[Tensor]) -> list[float]:
    """Standard deviation that unit noise of kernel ``cutoff`` has after each band-pass."""
    power = frequency * kernel_gain(frequency, cutoff, spacing).square()
    return [math.sqrt(float((power * band.square()).sum() / power.sum())) for band in bands]
