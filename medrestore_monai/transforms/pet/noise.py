"""What the noise of an OSEM-reconstructed PET slice looks like: its level, its spectrum, from place to place.

Linearize expectation maximization (EM) about the activity ``x``: a wave of frequency ``f`` (cycles/mm) across the rays
of angle ``t`` closes the part ``lambda = x w / (pi a f)`` of its distance to the solution in each update, where ``w``
is the information that those rays carry about the pixel (attenuation squared, over expected counts) and ``a`` the mean
attenuation. After ``k`` updates the noise power is that of filtered back-projection, ``pi f / (K h^2 w)``, times
``(1 - (1 - lambda)^k)^2``: a ramp where EM has come to its end, which is in hot spots, and proportional to ``x^2 / f``
where it has just begun. The post filter comes on top. Activity is in SUV, ``K`` in counts per SUV and mm^2, pixels
are ``h`` mm wide.

References:
    Barrett, Wilson and Tsui, Noise properties of the EM algorithm: I. Theory, Phys Med Biol 39 (1994).
    Qi, A unified noise analysis for iterative image estimation, Phys Med Biol 48 (2003).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from medrestore_monai.ops.radon import parallel_backproject, parallel_project, view_angles

__all__ = [
    "BACKGROUND",
    "BODY",
    "COUNTS",
    "WATER_511",
    "background_integral",
    "body_mask",
    "gaussian_gain",
    "outside_of_patch",
    "pet_noise",
    "pet_noise_map",
]

WATER_511 = 0.0096  # per mm, attenuation of 511 keV photons
BACKGROUND = 0.4  # scatter and random coincidences, as a part of the true ones
COUNTS = 200.0  # coincidences per SUV and mm^2 of a slice at full count, without attenuation
BODY = 300.0  # mm, diameter of the body around a patch that shows a part of it

_LEAST_SUV = 0.1  # smoothed activity above this is body
_BODY_FILTER = 15.0  # mm, full width at half maximum
_GRID = 56  # pixels of the coarse slice on which line integrals are computed
_VIEWS = 20  # five in each of four directions: an odd number is centered on its direction
_SLOWEST, _RATIO = 2e-4, 7.0  # speed of EM (lambda times f, cycles/mm) of the first spectrum, and from each to the next
_SPECTRA = 3
_MATCH = 1.03  # fitted to the exact simulation: what the linear theory and the bank of spectra leave out
_FINER = 4  # standard deviations are known at so many speeds per spectrum


def gaussian_gain(size: tuple[int, int], width: float, spacing: float) -> Tensor:
    """Gaussian filter for ``torch.fft.rfft2`` of an image of ``size``.

    Args:
        size: image size ``(X, Y)``.
        width: full width at half maximum in mm, 0 for no filter.
        spacing: pixel size in mm.

    Returns:
        Gain, 1 at frequency 0, shape ``(X, Y // 2 + 1)``.
    """
    sigma = width / math.sqrt(8 * math.log(2))
    return torch.exp(-2 * (math.pi * sigma * _frequency(size, spacing)) ** 2)


def body_mask(suv: Tensor, spacing: float) -> Tensor:
    """1 in the body and 0 in air, by the smoothed activity; of the shape of ``suv``, ``(1, X, Y)``."""
    margin = min(math.ceil(_BODY_FILTER / spacing), *(side - 1 for side in suv.shape[1:]))
    padded = F.pad(suv[None], [margin] * 4, mode="reflect")[0]
    size = (padded.shape[1], padded.shape[2])
    smooth = torch.fft.irfft2(torch.fft.rfft2(padded) * gaussian_gain(size, _BODY_FILTER, spacing).to(suv), s=size)
    return (smooth[:, margin : size[0] - margin, margin : size[1] - margin] > _LEAST_SUV).float()


def outside_of_patch(suv: Tensor, spacing: float) -> tuple[float, float]:
    """Line integral of activity (SUV mm) and length of tissue (mm) that a ray meets outside of the image.

    A whole slice ends in air and has none. Where a patch ends in the body, tissue like that at the patch's border is
    assumed to fill :data:`BODY`.
    """
    edge = torch.cat([suv[0, 0], suv[0, -1], suv[0, :, 0], suv[0, :, -1]]).clamp(min=0)
    missing = max(0.0, BODY - spacing * sum(suv.shape[1:]) / 2)
    return float(edge.mean()) * missing, float((edge > _LEAST_SUV).float().mean()) * missing


def background_integral(activity: Tensor, survival: Tensor, background: float) -> Tensor:
    """Scatter and randoms as a constant line integral (SUV mm): a part of what the rays with activity have on average.

    Args:
        activity: line integrals in SUV mm, any shape.
        survival: part of the photon pairs that attenuation leaves, same shape.
        background: the part.
    """
    true = activity * survival
    seen = activity > 0.1 * activity.max()
    return background * true[seen].mean() if bool(seen.any()) else true.new_tensor(1.0)


def pet_noise_map(
    suv: Tensor, spacing: float, directions: int = 4, background: float = BACKGROUND, attenuation: float = WATER_511
) -> Tensor:
    """What the rays through each pixel say about it, from the activity and the outline of the body.

    Computed on a coarse grid (56 pixels, 20 views), which a smooth function like this one allows.

    Args:
        suv: slice in SUV, shape ``(1, X, Y)``; of a patch, see :func:`outside_of_patch`.
        spacing: pixel size in mm.
        directions: number of directions, evenly spread over 180 degrees; 1 for isotropic noise.
        background: scatter and randoms as a part of the true coincidences, above 0.
        attenuation: of tissue, per mm; 0 for none.

    Returns:
        Map of shape ``(directions + 1, X, Y)``: information ``w`` of the rays of each direction, in 1/(SUV mm), and
        last the mean attenuation ``a``.

    Raises:
        ValueError: if ``suv`` is not one slice, ``directions`` does not divide 20 or ``background`` is not positive.
    """
    check_slice(suv)
    if directions < 1 or _VIEWS % directions or background <= 0:
        raise ValueError(
            f"directions must divide {_VIEWS} and background be positive, got {directions} and {background}."
        )
    shape = (suv.shape[1], suv.shape[2])
    factor = max(1.0, max(shape) / _GRID)
    coarse = (max(2, round(shape[0] / factor)), max(2, round(shape[1] / factor)))
    pitch = spacing * factor
    both = torch.stack([suv.clamp(min=0), body_mask(suv, spacing)], dim=1)  # (1, 2, X, Y)
    both = F.interpolate(both, size=coarse, mode="area")
    angles = view_angles(_VIEWS, device=suv.device)
    detectors = math.ceil(math.hypot(*coarse))
    integrals = parallel_project(both, angles, pitch, detectors)
    more_activity, more_tissue = outside_of_patch(suv, spacing)
    activity, length = integrals[:, :1] + more_activity, integrals[:, 1:] + more_tissue
    survival = torch.exp(-attenuation * length)
    information = survival.square() / (activity * survival + background_integral(activity, survival, background))
    per_sector = _VIEWS // directions
    shifted = torch.cat([information, survival], dim=1).roll(per_sector // 2, dims=2)  # centered on its direction
    parts = [
        parallel_backproject(part, sector, coarse, pitch) / per_sector
        for part, sector in zip(
            shifted.split(per_sector, dim=2), angles.roll(per_sector // 2).split(per_sector), strict=True
        )
    ]
    maps = torch.cat([*(part[:, :1] for part in parts), torch.cat(parts)[:, 1:].mean(dim=0, keepdim=True)], dim=1)
    return F.interpolate(maps, size=shape, mode="bilinear", align_corners=False)[0]


def pet_noise(
    white: Tensor, suv: Tensor, noise_map: Tensor, spacing: float, updates: float, width: float
) -> tuple[Tensor, Tensor]:
    """Shape white noise into that of an OSEM reconstruction with one count per SUV and mm^2.

    Args:
        white: independent normal values of variance 1, at least as large as the slice in both directions; a margin
            keeps the wrap-around of the Fourier filter out of the picture.
        suv: activity, shape ``(1, X, Y)``; where it is not positive there is no noise.
        noise_map: as of :func:`pet_noise_map`, shape ``(D + 1, X, Y)``.
        spacing: pixel size in mm.
        updates: iterations times subsets.
        width: full width at half maximum of the post filter in mm.

    Returns:
        Noise of mean 0 and its standard deviation, both in SUV and of shape ``(1, X, Y)``; divide by the root of the
        counts per SUV and mm^2.

    Raises:
        ValueError: if the sizes do not fit.
    """
    size, directions = (white.shape[0], white.shape[1]), noise_map.shape[0] - 1
    left, top = ((wide - side) // 2 for wide, side in zip(size, suv.shape[1:], strict=True))
    if min(left, top) < 0 or noise_map.shape[1:] != suv.shape[1:]:
        raise ValueError(f"noise {size} or noise map {tuple(noise_map.shape)} do not fit the slice {tuple(suv.shape)}.")
    filters, stds = _filter_bank(size, spacing, directions, float(updates), float(width))
    layers = torch.fft.irfft2(torch.fft.rfft2(white) * filters.to(white), s=size)
    layers = layers[..., left : left + suv.shape[1], top : top + suv.shape[2]]  # (D, spectra, X, Y)
    information = noise_map[:-1].clamp(min=1e-9)
    speed = suv.clamp(min=0) * information / (math.pi * noise_map[-1:].clamp(min=1e-6))  # (D, X, Y), cycles/mm
    place = torch.log((speed / _SLOWEST).clamp(min=1)) / math.log(_RATIO)
    # slower than the slowest: noise is proportional to the speed
    std = _interpolate(stds.to(white)[:, None, None], place * _FINER) * (speed / _SLOWEST).clamp(max=1)
    std = std * _MATCH * torch.sqrt(math.pi / (spacing**2 * information))
    field = _interpolate(layers.transpose(0, 1), place)
    neighbors = std * std.roll(-1, dims=0)  # linear interpolation between the directions, squared
    variance = std.square() if directions < 3 else (2 * std.square() + neighbors) / 3
    return (field * std).sum(dim=0, keepdim=True), variance.mean(dim=0, keepdim=True).sqrt()


def _interpolate(table: Tensor, place: Tensor) -> Tensor:
    """Read ``table``, shape ``(N, ...)``, linearly at ``place``, of the shape of what is left or can be broadcast."""
    result = table[0].expand(place.shape)
    for number in range(1, len(table)):
        result = torch.lerp(result, table[number].expand(place.shape), (place - (number - 1)).clamp(0, 1))
    return result


def check_slice(suv: Tensor) -> None:
    """Refuse what is not one slice of shape ``(1, X, Y)``.

    Raises:
        ValueError: it is not, or is narrower than 2 pixels.
    """
    if suv.ndim != 3 or suv.shape[0] != 1 or min(suv.shape[1:]) < 2:
        raise ValueError(f"expected one slice of shape (1, X, Y), got {tuple(suv.shape)}.")


@lru_cache(maxsize=64)
def _frequency(size: tuple[int, int], spacing: float) -> Tensor:
    """Frequencies of ``rfft2`` in cycles/mm, shape ``(X, Y // 2 + 1)``."""
    fx, fy = torch.fft.fftfreq(size[0], d=spacing)[:, None], torch.fft.rfftfreq(size[1], d=spacing)[None, :]
    return torch.sqrt(fx * fx + fy * fy)


@lru_cache(maxsize=8)
def _direction_weights(size: tuple[int, int], directions: int) -> Tensor:
    """Hat functions of the wave vector's angle that sum to 1, shape ``(directions, X, Y // 2 + 1)``."""
    fx, fy = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])[None, :]
    sector = torch.atan2(fy, fx) % math.pi * (directions / math.pi)
    distance = (sector - torch.arange(directions)[:, None, None]).abs()
    return (1 - torch.minimum(distance, directions - distance)).clamp(min=0) if directions > 1 else torch.ones(1, 1, 1)


@lru_cache(maxsize=8)
def _filter_bank(
    size: tuple[int, int], spacing: float, directions: int, updates: float, width: float
) -> tuple[Tensor, Tensor]:
    """Gains that keep the variance of white noise, per direction and speed of EM, and the standard deviations lost.

    Returns:
        Gains of shape ``(directions, spectra, X, Y // 2 + 1)``; standard deviations, ``_FINER`` for each spectrum.
    """
    frequency = _frequency(size, spacing).clamp(min=1e-6)
    count = (_SPECTRA - 1) * _FINER + 1
    speed = _SLOWEST * _RATIO ** (torch.arange(count)[:, None, None] / _FINER)
    interpolation = torch.sinc((frequency * spacing).clamp(max=0.7)).square()  # of the projector and its transpose
    closed = 1 - (1 - (speed / frequency * interpolation.square()).clamp(max=1)) ** updates
    gain = frequency.sqrt() * closed / interpolation * gaussian_gain(size, width, spacing)
    twice = torch.full((size[1] // 2 + 1,), 2.0)  # the half that rfft2 leaves out
    twice[0] = 1
    if size[1] % 2 == 0:
        twice[-1] = 1
    std = torch.sqrt((gain.square() * twice).sum(dim=(-2, -1)) / (size[0] * size[1]))
    spectra = gain[::_FINER] / std[::_FINER, None, None]
    return spectra * _direction_weights(size, directions)[:, None], std
