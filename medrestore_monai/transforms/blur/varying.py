"""Blur that varies over the picture: a few kernels, each at its place, and smooth transitions between them.

Lengths are in pixels; angles in degrees, from the first spatial axis towards the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.config import KeysCollection
from torch import Tensor

from medrestore_monai.transforms.blur.convolution import blur
from medrestore_monai.transforms.blur.kernels import (
    SHARPEST,
    WIDEST,
    anisotropic_gaussian_kernel,
    bent_path,
    disk_kernel,
    path_kernel,
)
from medrestore_monai.transforms.degradation import Degradation, RandDegradationd, plain_slices, range_of

__all__ = ["RandVaryingBlurd", "VaryingBlur", "draw_kernels", "place_weights", "varying_blur"]

_PLACES = 3  # with a kernel of their own
_REACH = 0.25  # of a place, as a part of the sides of the picture
_LEAST = 1 / 3  # of the width of the widest kernel
_BEND = 30.0  # degrees, of bent paths
_TURN = 30.0  # degrees, standard deviation of the direction from place to place


def place_weights(size: Sequence[int], places: np.ndarray, reach: float = _REACH) -> Tensor:
    """Share a picture smoothly among places: normalized Gaussians about them.

    Args:
        size: ``(X, Y)`` of the picture.
        places: parts of the way along each side, from 0 to 1, shape ``(N, 2)``.
        reach: standard deviation of the Gaussians, as a part of each side.

    Returns:
        Weights, float64, shape ``(N, X, Y)``, of sum 1 at every pixel.
    """
    x, y = ((torch.arange(side, dtype=torch.float64) + 0.5) / side for side in size)
    middle = torch.from_numpy(places)
    square = (x[None, :, None] - middle[:, :1, None]) ** 2 + (y[None, None, :] - middle[:, 1:, None]) ** 2
    return torch.softmax(-square / (2 * reach**2), dim=0)


def varying_blur(image: Tensor, kernels: Sequence[np.ndarray], weights: Tensor) -> Tensor:
    """Blur with each kernel, and blend the results.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        kernels: ``N`` kernels of odd sides.
        weights: of the kernels at each pixel, shape ``(N, X, Y)``, of sum 1 over the kernels.

    Returns:
        The blurred image, same shape, float32 (float64 stays).

    Raises:
        ValueError: the weights do not fit, or have another sum.
    """
    values = plain_slices(image)
    if tuple(weights.shape) != (len(kernels), *values.shape[1:3]):
        raise ValueError(
            f"weights must have the shape {(len(kernels), *values.shape[1:3])}, got {tuple(weights.shape)}."
        )
    if not torch.allclose(weights.sum(dim=0), torch.ones((), dtype=weights.dtype, device=weights.device)):
        raise ValueError("weights must have the sum 1 at every pixel.")
    shares = weights.to(values)[:, None, ..., None] if values.ndim == 4 else weights.to(values)[:, None]
    result = torch.zeros_like(values)
    for kernel, share in zip(kernels, shares, strict=True):
        result += blur(values, kernel) * share
    return result


def draw_kernels(width: float, random: np.random.RandomState) -> list[np.ndarray]:
    """Draw the kernels of the places of one picture: all disks, or Gaussians of two widths, or motion along bent paths.

    Disks are what a tilted or curved object leaves, Gaussians the aberrations of a lens, and motion that changes in
    length and direction a turn. Only the widths and directions differ from place to place.

    Args:
        width: of the widest kernel in pixels: the diameter of a disk, 6 standard deviations of a Gaussian, the length
            of a path. The others have a third of it or more.
        random: what draws.

    Returns:
        Three kernels of sum 1, of odd sides.
    """
    widths = random.uniform(_LEAST, 1.0, _PLACES)
    widths *= width / widths.max()
    angles = random.uniform(0, 360) + random.normal(0, _TURN, _PLACES)
    kind, ratio, shape = int(random.randint(3)), random.uniform(_LEAST, 1.0), int(random.randint(2**31 - 1))
    if kind == 0:
        return [disk_kernel(one / 2) for one in widths]
    if kind == 1:
        sigmas = [(max(one / 6, SHARPEST), max(one / 6 * ratio, SHARPEST)) for one in widths]
        return [anisotropic_gaussian_kernel(*pair, angle) for pair, angle in zip(sigmas, angles, strict=True)]
    return [path_kernel(bent_path(one, _BEND, angle, shape)) for one, angle in zip(widths, angles, strict=True)]


@dataclass(frozen=True)
class VaryingBlur(Degradation):
    """One drawn blur that varies over the picture; see :func:`draw_kernels` and :func:`varying_blur`.

    Args:
        width: of the widest kernel in pixels; up to 1 it changes nothing.
        seed: of kernels and places.
    """

    width: float
    seed: int = 0

    def __call__(self, image: Tensor) -> Tensor:
        """Return the blurred image."""
        values = plain_slices(image)
        if self.width <= 1:
            return values.clone()
        random = np.random.RandomState(self.seed)
        weights = place_weights(values.shape[1:3], random.uniform(size=(_PLACES, 2)))
        return varying_blur(values, draw_kernels(self.width, random), weights)


class RandVaryingBlurd(RandDegradationd):
    """Blur of random width that varies over the picture; the values go to ``varying_blur``.

    Apply it to whole pictures, or to patches that are to look like whole pictures.

    Args:
        keys: images, shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        width: of the widest kernel in pixels, or a range of it, drawn uniformly.
        prob: probability to blur at all.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if the range is invalid.
    """

    record, unchanged = "varying_blur", VaryingBlur(1.0)

    def __init__(
        self,
        keys: KeysCollection,
        width: float | Sequence[float] = (3.0, 31.0),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.width = range_of("width", width, 1, WIDEST)

    def draw(self) -> VaryingBlur:
        """Draw width, kernels and places."""
        return VaryingBlur(float(self.R.uniform(*self.width)), int(self.R.randint(2**31 - 1)))
