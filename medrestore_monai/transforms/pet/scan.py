"""A simulated PET scan of a slice: line integrals, counted coincidences, OSEM reconstruction.

The exact simulation, which judges the fast one of :mod:`medrestore_monai.transforms.pet.low_count`. Two forms:
:func:`simulate_pet_low_count` inserts noise into a real slice, which keeps its sharpness and its own noise;
:func:`scan_pet` counts, thins the counts as list-mode decimation does, and reconstructs both. One slice at a time,
parallel beam, no time of flight; activity is in SUV.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medrestore_monai.ops.radon import parallel_backproject, parallel_project, view_angles
from medrestore_monai.transforms.pet.noise import (
    BACKGROUND,
    COUNTS,
    WATER_511,
    background_integral,
    body_mask,
    check_slice,
    gaussian_gain,
    outside_of_patch,
)

__all__ = ["Acquisition", "PETScan", "osem", "scan_pet", "simulate_pet_low_count"]


@dataclass(frozen=True)
class PETScan:
    """How a slice is scanned and reconstructed.

    Args:
        spacing: pixel size in mm.
        counts: coincidences per SUV and mm^2 of slice that would be counted without attenuation.
        width: full width at half maximum of the Gaussian post filter in mm, 0 for none.
        iterations: of OSEM.
        subsets: of OSEM; divides ``views``.
        views: number of views over 180 degrees.
        background: scatter and randoms as a part of the true coincidences, above 0.
        attenuation: of tissue, per mm; 0 for none.

    Raises:
        ValueError: for values that are no scan.
    """

    spacing: float
    counts: float = COUNTS
    width: float = 5.0
    iterations: int = 4
    subsets: int = 8
    views: int = 96
    background: float = BACKGROUND
    attenuation: float = WATER_511

    def __post_init__(self) -> None:
        if min(self.spacing, self.counts, self.background) <= 0 or min(self.width, self.attenuation) < 0:
            raise ValueError(f"spacing, counts and background must be positive, got {self}.")
        if min(self.iterations, self.subsets, self.views) < 1 or self.views % self.subsets:
            raise ValueError(f"iterations must be positive and subsets divide views, got {self}.")

    @property
    def updates(self) -> int:
        """Updates of the image: iterations times subsets."""
        return self.iterations * self.subsets

    def filtered(self, image: Tensor) -> Tensor:
        """Apply the post filter to images of shape ``(..., X, Y)``; beyond the border is air."""
        margin = math.ceil(1.5 * self.width / self.spacing)
        padded = torch.nn.functional.pad(image, [margin] * 4)
        size = (padded.shape[-2], padded.shape[-1])
        gain = gaussian_gain(size, self.width, self.spacing).to(image)
        smooth = torch.fft.irfft2(torch.fft.rfft2(padded) * gain, s=size)
        return smooth[..., margin : size[0] - margin, margin : size[1] - margin]


@dataclass(frozen=True)
class Acquisition:
    """What the reconstruction knows of a scan: attenuation and the constant part, per ray; shapes ``(1, 1, V, N)``."""

    scan: PETScan
    angles: Tensor
    survival: Tensor  # times counts per SUV mm of line integral
    constant: Tensor  # counts

    @classmethod
    def of(cls, suv: Tensor, scan: PETScan) -> tuple[Acquisition, Tensor]:
        """The acquisition of a slice, and its expected counts."""
        angles = view_angles(scan.views, device=suv.device)
        detectors = math.ceil(math.hypot(*suv.shape[1:]))
        both = torch.stack([suv.clamp(min=0), body_mask(suv, scan.spacing)], dim=1)
        integrals = parallel_project(both, angles, scan.spacing, detectors)
        more_activity, more_tissue = outside_of_patch(suv, scan.spacing)
        survival = torch.exp(-scan.attenuation * (integrals[:, 1:] + more_tissue))
        activity = integrals[:, :1] + more_activity
        constant = background_integral(activity, survival, scan.background) + more_activity * survival
        factor = scan.counts * scan.spacing / scan.views
        known = cls(scan, angles, survival * factor, constant * factor)
        return known, integrals[:, :1] * known.survival + known.constant


def osem(counts: Tensor, known: Acquisition, start: Tensor) -> Tensor:
    """Ordered-subsets expectation maximization.

    Args:
        counts: shape ``(B, 1, views, detectors)``.
        known: attenuation and background of the rays.
        start: positive first image in SUV, shape ``(B, 1, X, Y)``.

    Returns:
        Image in SUV, not filtered, shape ``(B, 1, X, Y)``.

    References:
        Hudson and Larkin, Accelerated image reconstruction using ordered subsets of projection data,
        IEEE Trans Med Imaging 13 (1994).
    """
    scan, image = known.scan, start
    size, spacing = (start.shape[2], start.shape[3]), scan.spacing
    order = sorted(range(scan.subsets), key=lambda number: f"{number:016b}"[::-1])  # neighbors far from each other
    sensitivity = {
        first: parallel_backproject(
            known.survival[:, :, first :: scan.subsets], known.angles[first :: scan.subsets], size, spacing
        )
        for first in order
    }
    for _ in range(scan.iterations):
        for first in order:
            part = slice(first, None, scan.subsets)
            survival, angles = known.survival[:, :, part], known.angles[part]
            expected = parallel_project(image, angles, spacing, counts.shape[3]) * survival + known.constant[:, :, part]
            ratio = counts[:, :, part] / expected
            image = image * parallel_backproject(ratio * survival, angles, size, spacing) / sensitivity[first]
    return image


def simulate_pet_low_count(suv: Tensor, drf: float, scan: PETScan, generator: np.random.RandomState) -> Tensor:
    """Insert noise in the counts, so that a slice looks as if scanned with a fraction of its counts.

    A full-count slice has the noise of its counts already; thinned by ``drf`` it has ``drf`` times that variance. So
    counts of ``drf - 1`` times the variance are drawn, and OSEM starts from the slice itself: without noise it would
    stay there and lose no sharpness, and the noise goes through as many updates as in a reconstruction.

    Args:
        suv: full-count slice in SUV, shape ``(1, X, Y)``.
        drf: dose reduction factor, at least 1.
        scan: scanner, counts and reconstruction of the slice.
        generator: source of the noise, the same picture for the same state on every machine.

    Returns:
        Low-count slice in SUV, shape ``(1, X, Y)``; not negative where ``suv`` is not.

    Raises:
        ValueError: for a factor below 1, or if ``suv`` is not one slice.
    """
    _check(suv, drf)
    if drf == 1:
        return suv.clone()
    known, expected = Acquisition.of(suv, scan)
    drawn = generator.poisson((expected / (drf - 1)).cpu().double().numpy()).astype(np.float32)
    start = suv[None].clamp(min=0)
    noisy = osem(torch.from_numpy(drawn).to(suv) * (drf - 1), known, start)
    low_count = suv + scan.filtered(noisy - start)[0]
    return torch.maximum(low_count, suv.clamp(max=0))


def scan_pet(suv: Tensor, drf: float, scan: PETScan, generator: np.random.RandomState) -> tuple[Tensor, Tensor]:
    """Scan an object, keep one of ``drf`` coincidences by chance, reconstruct all and the kept ones alike.

    Args:
        suv: object in SUV, shape ``(1, X, Y)``.
        drf: dose reduction factor, at least 1.
        scan: scanner, counts and reconstruction.
        generator: source of the counts, the same picture for the same state on every machine.

    Returns:
        Low-count and full-count image in SUV, both of shape ``(1, X, Y)`` and not negative.

    Raises:
        ValueError: for a factor below 1, or if ``suv`` is not one slice.
    """
    _check(suv, drf)
    known, expected = Acquisition.of(suv, scan)
    full = generator.poisson(expected.cpu().double().numpy())
    kept = generator.binomial(full, 1 / drf)
    counts = torch.from_numpy(np.concatenate([kept * drf, full]).astype(np.float32)).to(suv)
    body = body_mask(suv, scan.spacing)[None]
    start = (float(suv.clamp(min=0).sum() / body.sum().clamp(min=1)) + 1e-3) * torch.ones_like(suv[None])
    low_count, full_count = scan.filtered(osem(counts, known, start.expand(2, -1, -1, -1))).clamp(min=0)
    return low_count, full_count


def _check(suv: Tensor, drf: float) -> None:
    check_slice(suv)
    if not drf >= 1:
        raise ValueError(f"the dose reduction factor must be at least 1, got {drf}.")
