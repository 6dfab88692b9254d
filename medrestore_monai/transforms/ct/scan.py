"""A simulated CT scan of a slice, ray by ray: line integrals, counted photons, filtered back-projection.

The exact simulation, which judges the fast one of :mod:`medrestore_monai.transforms.ct.low_dose`. Two forms:
:func:`simulate_ct_low_dose` inserts noise into a real slice, which keeps its sharpness and its own noise;
:func:`scan_ct` counts photons behind a noise-free object, the form of the textbooks. Parallel beam, or fan beam with
an arc detector where a :class:`~medrestore_monai.ops.radon.FanBeam` is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medrestore_monai.ops.radon import FanBeam, fan_fbp, fan_project, parallel_fbp, parallel_project, view_angles
from medrestore_monai.transforms.ct.noise import (
    BOWTIE_RADIUS,
    SHARP_CUTOFF,
    TUBE_MODULATION,
    WATER_ATTENUATION,
    CTNoise,
    kernel_gain,
    log_variance,
)

__all__ = ["CTScan", "matched_scan", "scan_ct", "simulate_ct_low_dose"]


@dataclass(frozen=True)
class CTScan:
    """How a slice is scanned and reconstructed.

    Args:
        spacing: pixel size in mm.
        photons: photons per ray through air at the rotation axis, at full dose and mean tube current.
        electronic_noise: standard deviation of the detector's own noise, in photons.
        cutoff: kernel sharpness in cycles/mm, see :func:`~medrestore_monai.transforms.ct.noise.kernel_gain`.
        views: number of views, over 180 degrees (parallel beam) or 360 degrees (fan beam).
        geometry: fan beam; parallel beam with rays half a pixel apart by default.
        bowtie_radius: see :func:`~medrestore_monai.transforms.ct.noise.log_variance`; ``None`` for no filter.
        modulation: tube current modulation, see there.

    Raises:
        ValueError: for values that are no scan.
    """

    spacing: float
    photons: float = 2e5
    electronic_noise: float = 0.0
    cutoff: float = SHARP_CUTOFF
    views: int = 720
    geometry: FanBeam | None = None
    bowtie_radius: float | None = BOWTIE_RADIUS
    modulation: float = TUBE_MODULATION

    def __post_init__(self) -> None:
        if min(self.spacing, self.photons, self.cutoff, self.views) <= 0 or self.electronic_noise < 0:
            raise ValueError(f"spacing, photons, cutoff and views must be positive, got {self}.")

    @property
    def pitch(self) -> float:
        """Distance of neighboring rays at the rotation axis, in mm."""
        return self.spacing / 2 if self.geometry is None else self.geometry.pitch

    def angles(self) -> Tensor:
        """View angles in radians, shape ``(views,)``."""
        return view_angles(self.views, math.pi if self.geometry is None else 2 * math.pi)

    def project(self, hu: Tensor) -> Tensor:
        """Line integrals (no unit) through a slice in HU, shape ``(1, X, Y)`` to ``(1, 1, views, detectors)``."""
        attenuation = (hu[None] / 1000 + 1).clamp(min=0) * WATER_ATTENUATION
        if self.geometry is None:
            return parallel_project(attenuation, self.angles(), self.spacing, 2 * max(hu.shape[1:]), self.pitch)
        return fan_project(attenuation, self.angles(), self.spacing, self.geometry)

    def reconstruct(self, integrals: Tensor, size: tuple[int, int]) -> Tensor:
        """Filtered back-projection to attenuation in units of 1000 times water's, shape ``(1, X, Y)``."""
        if self.geometry is None:
            image = parallel_fbp(integrals, self.angles(), size, self.spacing, self.pitch, self._window)
        else:
            image = fan_fbp(integrals, self.angles(), size, self.spacing, self.geometry, self._window)
        return image[0] * (1000 / WATER_ATTENUATION)

    def relative_variance(self, integrals: Tensor) -> Tensor:
        """Quantum variance of every ray, times ``photons``; see :func:`log_variance`."""
        return log_variance(integrals, self.pitch, self.bowtie_radius, self.modulation)

    def noise_scale(self) -> float:
        """Standard deviation of the quantum noise at full dose, in HU, where the relative noise map is 1."""
        frequency = torch.linspace(0, 1 / self.spacing, 4096)
        power = torch.trapezoid((frequency * kernel_gain(frequency, self.cutoff, self.spacing)).square(), frequency)
        variance = 2 * float(power) * self.pitch / (self.views * self.photons)
        return 1000 / WATER_ATTENUATION * math.pi * math.sqrt(variance)

    def _window(self, frequency: Tensor) -> Tensor:
        """The kernel, and a lift that undoes the smoothing of the linear interpolation in the back-projection."""
        interpolation = torch.sinc((frequency * self.pitch).clamp(max=0.5)).square()
        return kernel_gain(frequency, self.cutoff, self.spacing) / interpolation


def matched_scan(noise: CTNoise, spacing: float) -> CTScan:
    """Return the scan that leaves in a slice the noise which it has.

    Args:
        noise: measured in the slice, see :func:`~medrestore_monai.transforms.ct.noise.estimate_ct_noise`.
        spacing: pixel size in mm.
    """
    one_photon = CTScan(spacing, photons=1.0, cutoff=noise.cutoff).noise_scale()
    return CTScan(spacing, photons=(one_photon / noise.scale) ** 2, cutoff=noise.cutoff)


def simulate_ct_low_dose(hu: Tensor, dose: float, scan: CTScan, generator: np.random.RandomState) -> Tensor:
    """Insert noise in the line integrals, so that a slice looks as if scanned at a fraction of its dose.

    The result is ``hu`` plus the filtered back-projection of independent noise. Its variance after the logarithm is
    ``(1/d - 1) exp(p) / N + (1/d^2 - 1) s^2 exp(2 p) / N^2`` with ``N`` photons and electronic noise ``s``: what the
    lower dose has more than the dose of the slice. As FBP is linear, the slice itself is never reconstructed again.

    Args:
        hu: routine-dose slice in HU, shape ``(1, X, Y)``.
        dose: fraction of its dose, in (0, 1].
        scan: scanner, dose and kernel of the slice.
        generator: source of the noise, the same picture for the same state on every machine.

    Returns:
        Low-dose slice in HU, shape ``(1, X, Y)``.

    Raises:
        ValueError: for a dose out of range, or if ``hu`` is not one slice.

    References:
        Yu et al., Development and validation of a practical lower-dose-simulation tool for optimizing computed
        tomography scan protocols, J Comput Assist Tomogr 36 (2012).
    """
    _check(hu, dose)
    relative = scan.relative_variance(scan.project(hu)) / scan.photons
    electronic = (1 / dose**2 - 1) * (scan.electronic_noise * relative).square()
    std = ((1 / dose - 1) * relative + electronic).sqrt()
    white = torch.from_numpy(generator.standard_normal(tuple(std.shape)).astype(np.float32)).to(std)
    return hu + scan.reconstruct(white * std, (hu.shape[1], hu.shape[2]))


def scan_ct(hu: Tensor, dose: float, scan: CTScan, generator: np.random.RandomState) -> Tensor:
    """Scan a noise-free object: Poisson counts at a fraction of the dose, logarithm, filtered back-projection.

    Args:
        hu: noise-free object in HU, shape ``(1, X, Y)``, inside the inscribed circle.
        dose: fraction of the photons of ``scan``, in (0, 1].
        scan: scanner and kernel.
        generator: source of the counts.

    Returns:
        Reconstructed slice in HU, shape ``(1, X, Y)``.

    Raises:
        ValueError: for a dose out of range, or if ``hu`` is not one slice.
    """
    _check(hu, dose)
    integrals = scan.project(hu)
    expected = dose * scan.photons / scan.relative_variance(integrals)
    counts = torch.from_numpy(generator.poisson(expected.cpu().double().numpy()).astype(np.float32)).to(integrals)
    if scan.electronic_noise:
        noise = generator.standard_normal(tuple(counts.shape)).astype(np.float32)
        counts = counts + scan.electronic_noise * torch.from_numpy(noise).to(counts)
    noisy = integrals + torch.log(expected / counts.clamp(min=0.5))  # a ray of no count at all still has a logarithm
    return scan.reconstruct(noisy, (hu.shape[1], hu.shape[2])) - 1000


def _check(hu: Tensor, dose: float) -> None:
    if hu.ndim != 3 or hu.shape[0] != 1:
        raise ValueError(f"expected one slice of shape (1, X, Y), got {tuple(hu.shape)}.")
    if not 0 < dose <= 1:
        raise ValueError(f"dose must be a fraction in (0, 1], got {dose}.")
