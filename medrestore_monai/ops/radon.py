"""Line integrals through an image and filtered back-projection (FBP), parallel beam and fan beam.

Conventions of the whole file. Images have shape ``(B, C, X, Y)`` with square pixels of ``spacing`` mm; the rotation
axis is the middle of the image, ``x`` and ``y`` in mm grow with the first and second image axis. Sinograms have shape
``(B, C, views, detectors)``. Angles are in radians. A parallel ray of view ``t`` at detector position ``s`` is the line
``x cos t + y sin t = s``. The fan beam has a flat-panel-free, equiangular (arc) detector: at view ``t`` the source
stands at ``R (-sin t, cos t)`` and the ray of fan angle ``g`` is the parallel ray of angle ``t + g`` at ``R sin g``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "FanBeam",
    "fan_fbp",
    "fan_project",
    "parallel_backproject",
    "parallel_fbp",
    "parallel_project",
    "view_angles",
]

Window = Callable[[Tensor], Tensor]

_VIEWS_AT_ONCE = 16  # bounds the memory of one step to that of 16 images


@dataclass(frozen=True)
class FanBeam:
    """Geometry of a third-generation scanner with an equiangular (arc) detector.

    Args:
        source_distance: source to rotation axis, in mm; larger than the radius of the object.
        detectors: number of detector channels.
        pitch: distance of neighboring channels at the rotation axis, in mm; the fan angle between two channels is
            ``pitch / source_distance``.

    Raises:
        ValueError: for a geometry that is no fan beam.
    """

    source_distance: float = 595.0
    detectors: int = 736
    pitch: float = 0.7

    def __post_init__(self) -> None:
        if self.detectors < 2 or self.pitch <= 0 or self.source_distance <= 0:
            raise ValueError(f"a fan beam needs at least 2 detectors and positive distances, got {self}.")
        if self.fan_angles()[-1] >= math.pi / 2:
            raise ValueError(f"the fan must open less than 180 degrees, got {self}.")

    @property
    def fan_step(self) -> float:
        """Fan angle between neighboring channels, in radians."""
        return self.pitch / self.source_distance

    def fan_angles(self) -> Tensor:
        """Fan angle of every channel, in radians, shape ``(detectors,)``."""
        return _centered(self.detectors, torch.device("cpu")) * self.fan_step


def view_angles(views: int, arc: float = math.pi, device: torch.device | str = "cpu") -> Tensor:
    """``views`` angles from 0 over ``arc`` radians, the end left out; shape ``(views,)``."""
    if views < 1:
        raise ValueError(f"at least one view is needed, got {views}.")
    return torch.arange(views, device=device, dtype=torch.float32) * (arc / views)


def parallel_project(
    image: Tensor, angles: Tensor, spacing: float = 1.0, detectors: int | None = None, pitch: float | None = None
) -> Tensor:
    """Integrate an image along parallel rays.

    Args:
        image: shape ``(B, C, X, Y)``, floating point, e.g. attenuation per mm.
        angles: view angles in radians, shape ``(views,)``.
        spacing: pixel size in mm.
        detectors: rays per view; the longer image side by default, which covers the inscribed circle.
        pitch: distance of neighboring rays in mm; ``spacing`` by default.

    Returns:
        Line integrals, unit of the image times mm, shape ``(B, C, views, detectors)``.

    Raises:
        ValueError: if the image has not four axes.
    """
    _check_image(image)
    position = _centered(detectors or max(image.shape[2:]), image.device) * (pitch or spacing)
    sinogram = []
    for view in angles.to(image).split(_VIEWS_AT_ONCE):
        sinogram.append(_integrate(image, view[:, None], position[None, :], spacing))
    return torch.cat(sinogram, dim=2)


def fan_project(image: Tensor, angles: Tensor, spacing: float, geometry: FanBeam) -> Tensor:
    """Integrate an image along the rays of a fan beam.

    Args:
        image: shape ``(B, C, X, Y)``, floating point, e.g. attenuation per mm.
        angles: angles of the central rays in radians, shape ``(views,)``.
        spacing: pixel size in mm.
        geometry: the scanner.

    Returns:
        Line integrals, unit of the image times mm, shape ``(B, C, views, detectors)``.

    Raises:
        ValueError: if the image has not four axes, or reaches to the source.
    """
    _check_image(image)
    if math.hypot(*image.shape[2:]) * spacing / 2 >= geometry.source_distance:
        raise ValueError(f"the source at {geometry.source_distance} mm must stand outside of the image.")
    fan = geometry.fan_angles().to(image)
    position = geometry.source_distance * fan.sin()
    sinogram = []
    for view in angles.to(image).split(_VIEWS_AT_ONCE):
        sinogram.append(_integrate(image, view[:, None] + fan, position[None, :], spacing))
    return torch.cat(sinogram, dim=2)


def parallel_fbp(
    sinogram: Tensor,
    angles: Tensor,
    size: tuple[int, int],
    spacing: float = 1.0,
    pitch: float | None = None,
    window: Window | None = None,
) -> Tensor:
    """Filtered back-projection of parallel-beam line integrals.

    Args:
        sinogram: shape ``(B, C, views, detectors)``.
        angles: view angles in radians, shape ``(views,)``, evenly spread over pi or a multiple of it.
        size: image size ``(X, Y)``.
        spacing: pixel size in mm.
        pitch: distance of neighboring rays in mm; ``spacing`` by default.
        window: apodization of the ramp filter, a function of the frequency in cycles/mm; none by default.

    Returns:
        Image in the unit of the sinogram per mm, shape ``(B, C, X, Y)``.

    Raises:
        ValueError: if sinogram and angles do not fit.
    """
    _check_sinogram(sinogram, angles)
    pitch = pitch or spacing
    filtered = _filter(sinogram, _ramp_kernel(sinogram.shape[-1], pitch, sinogram.device), pitch, window) * pitch
    return parallel_backproject(filtered, angles, size, spacing, pitch) * (math.pi / len(angles))


def parallel_backproject(
    sinogram: Tensor, angles: Tensor, size: tuple[int, int], spacing: float = 1.0, pitch: float | None = None
) -> Tensor:
    """Sum over the views of the value on the ray through each pixel, linearly interpolated, 0 beyond the detector.

    Args:
        sinogram: shape ``(B, C, views, detectors)``.
        angles: view angles in radians, shape ``(views,)``.
        size: image size ``(X, Y)``.
        spacing: pixel size in mm.
        pitch: distance of neighboring rays in mm; ``spacing`` by default.

    Returns:
        Image in the unit of the sinogram, shape ``(B, C, X, Y)``.

    Raises:
        ValueError: if sinogram and angles do not fit.
    """
    _check_sinogram(sinogram, angles)
    x, y = _pixel_grid(size, spacing, sinogram.device)
    image = sinogram.new_zeros((*sinogram.shape[:2], *size))
    for index, angle in enumerate(angles.tolist()):
        position = x * math.cos(angle) + y * math.sin(angle)
        image = image + _read(sinogram[:, :, index], position / (pitch or spacing))
    return image


def fan_fbp(
    sinogram: Tensor,
    angles: Tensor,
    size: tuple[int, int],
    spacing: float,
    geometry: FanBeam,
    window: Window | None = None,
) -> Tensor:
    """Filtered back-projection of fan-beam line integrals over a full turn, directly (no rebinning).

    Args:
        sinogram: shape ``(B, C, views, detectors)``.
        angles: angles of the central rays in radians, evenly spread over 2 pi, shape ``(views,)``.
        size: image size ``(X, Y)``.
        spacing: pixel size in mm.
        geometry: the scanner.
        window: apodization of the ramp filter, a function of the frequency at the rotation axis in cycles/mm.

    Returns:
        Image in the unit of the sinogram per mm, shape ``(B, C, X, Y)``.

    Raises:
        ValueError: if sinogram, angles and geometry do not fit.

    References:
        Kak and Slaney, Principles of Computerized Tomographic Imaging, 3.4.1 (equiangular rays).
    """
    _check_sinogram(sinogram, angles)
    if sinogram.shape[-1] != geometry.detectors:
        raise ValueError(f"expected {geometry.detectors} detectors, got {sinogram.shape[-1]}.")
    distance, step = geometry.source_distance, geometry.fan_step
    fan = geometry.fan_angles().to(sinogram)
    kernel = _ramp_kernel(geometry.detectors, step, sinogram.device)
    lag = _centered(2 * geometry.detectors - 1, sinogram.device) * step
    kernel = kernel / torch.sinc(lag / math.pi).square()  # (g / sin g)^2 makes it exact on the arc
    filtered = _filter(sinogram * (distance * fan.cos()), kernel, geometry.pitch, window) * step
    x, y = _pixel_grid(size, spacing, sinogram.device)
    image = sinogram.new_zeros((*sinogram.shape[:2], *size))
    for index, angle in enumerate(angles.tolist()):
        across = x * math.cos(angle) + y * math.sin(angle)
        along = distance + x * math.sin(angle) - y * math.cos(angle)
        position = torch.atan2(across, along) / step
        image = image + _read(filtered[:, :, index], position) / (across.square() + along.square())
    return image * (math.pi / len(angles))


def _check_image(image: Tensor) -> None:
    if image.ndim != 4 or not image.is_floating_point():
        raise ValueError(f"expected a floating point image of shape (B, C, X, Y), got {image.dtype} {image.shape}.")


def _check_sinogram(sinogram: Tensor, angles: Tensor) -> None:
    if sinogram.ndim != 4 or sinogram.shape[2] != len(angles):
        raise ValueError(f"expected a sinogram of shape (B, C, {len(angles)}, detectors), got {tuple(sinogram.shape)}.")


def _centered(count: int, device: torch.device) -> Tensor:
    """0, 1, ..., count - 1, moved so that the middle is 0; shape ``(count,)``."""
    return torch.arange(count, device=device, dtype=torch.float32) - (count - 1) / 2


def _pixel_grid(size: tuple[int, int], spacing: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """``x`` of shape ``(X, 1)`` and ``y`` of shape ``(1, Y)`` of the pixel centers, in mm."""
    return _centered(size[0], device)[:, None] * spacing, _centered(size[1], device)[None, :] * spacing


def _integrate(image: Tensor, angle: Tensor, position: Tensor, spacing: float) -> Tensor:
    """Line integrals along the rays ``(angle, position)``, both broadcast to ``(views, detectors)``."""
    batch, channels, width, height = image.shape
    steps = math.ceil(math.hypot(width, height))
    along = _centered(steps, image.device) * spacing
    cos, sin = angle.cos()[..., None], angle.sin()[..., None]
    x = position[..., None] * cos - along * sin  # (views, detectors, steps)
    y = position[..., None] * sin + along * cos
    grid = torch.stack((y / (height * spacing / 2), x / (width * spacing / 2)), dim=-1)
    views, detectors = x.shape[:2]
    grid = grid.reshape(1, views * detectors, steps, 2).expand(batch, -1, -1, -1)
    samples = F.grid_sample(image, grid.to(image.dtype), align_corners=False)
    return samples.sum(dim=-1).reshape(batch, channels, views, detectors) * spacing


def _ramp_kernel(detectors: int, pitch: float, device: torch.device) -> Tensor:
    """Band-limited ramp in space (Kak and Slaney, eq. 3.61), shape ``(2 * detectors - 1,)``, middle at lag 0."""
    lag = torch.arange(1 - detectors, detectors, device=device)
    odd = lag % 2 == 1
    kernel = torch.where(odd, -1.0 / (math.pi * lag.where(odd, torch.ones_like(lag)) * pitch).square(), 0.0)
    kernel[detectors - 1] = 1 / (4 * pitch * pitch)
    return kernel


def _filter(sinogram: Tensor, kernel: Tensor, pitch: float, window: Window | None) -> Tensor:
    """Convolve every view with ``kernel``, apodized by ``window`` of the frequency in cycles per unit of ``pitch``."""
    detectors = sinogram.shape[-1]
    length = 2 ** math.ceil(math.log2(3 * detectors))
    response = torch.fft.rfft(kernel.to(sinogram), n=length)
    if window is not None:
        response = response * window(torch.fft.rfftfreq(length, d=pitch, device=sinogram.device)).to(sinogram)
    filtered = torch.fft.irfft(torch.fft.rfft(sinogram, n=length) * response, n=length)
    return filtered[..., detectors - 1 : 2 * detectors - 1]


def _read(view: Tensor, index: Tensor) -> Tensor:
    """Interpolate ``view``, shape ``(B, C, detectors)``, linearly at channels ``index`` counted from the middle."""
    detectors = view.shape[-1]
    index = index + (detectors - 1) / 2
    inside = (index >= 0) & (index <= detectors - 1)
    low = index.floor().clamp(0, detectors - 2)
    left = low.long()
    return torch.lerp(view[..., left], view[..., left + 1], index - low) * inside
