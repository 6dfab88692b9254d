"""Gaussian blur, of one width or of two.

Lengths are in pixels; angles in degrees, from the first spatial axis towards the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monai.config import KeysCollection
from torch import Tensor

from medrestore_monai.transforms.blur.convolution import blur
from medrestore_monai.transforms.blur.kernels import (
    SHARPEST,
    WIDEST,
    anisotropic_gaussian_kernel,
    gaussian_kernel,
)
from medrestore_monai.transforms.degradation import Degradation, RandDegradationd, range_of

__all__ = [
    "AnisotropicGaussianBlur",
    "GaussianBlur",
    "RandAnisotropicGaussianBlurd",
    "RandGaussianBlurd",
    "anisotropic_gaussian_blur",
    "gaussian_blur",
]


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian, cut off at 4 standard deviations.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        sigma: standard deviation in pixels; 0 changes nothing.
    """
    kernel = gaussian_kernel(sigma)
    return blur(blur(image, kernel[:, None]), kernel[None, :])


def anisotropic_gaussian_blur(image: Tensor, sigma_along: float, sigma_across: float, angle: float) -> Tensor:
    """Blur with a Gaussian of two widths, cut off at 4 standard deviations of the wider one.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        sigma_along: standard deviation in pixels in the direction of ``angle``, at least 0.5; 0 for both changes
            nothing.
        sigma_across: the same at a right angle to it.
        angle: in degrees; 0 is along the first spatial axis.
    """
    return blur(image, anisotropic_gaussian_kernel(sigma_along, sigma_across, angle))


@dataclass(frozen=True)
class GaussianBlur(Degradation):
    """One drawn Gaussian blur; see :func:`gaussian_blur`.

    Args:
        sigma: standard deviation in pixels; 0 changes nothing.
    """

    sigma: float

    def __call__(self, image: Tensor) -> Tensor:
        """Return the blurred image."""
        return gaussian_blur(image, self.sigma)


@dataclass(frozen=True)
class AnisotropicGaussianBlur(Degradation):
    """One drawn Gaussian blur of two widths; see :func:`anisotropic_gaussian_blur`.

    Args:
        sigma_along: standard deviation in pixels in the direction of ``angle``; 0 for both changes nothing.
        sigma_across: the same at a right angle to it.
        angle: in degrees.
    """

    sigma_along: float
    sigma_across: float
    angle: float = 0.0

    def __call__(self, image: Tensor) -> Tensor:
        """Return the blurred image."""
        return anisotropic_gaussian_blur(image, self.sigma_along, self.sigma_across, self.angle)


class RandGaussianBlurd(RandDegradationd):
    """Gaussian blur of random width; it goes to ``gaussian_blur``.

    The default is for pictures of 28x28 pixels, as those of AFF-UNet-RWKV, which states no values.

    Args:
        keys: images, shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        sigma: standard deviation in pixels, or a range of it, drawn uniformly.
        prob: probability to blur at all.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if a range is invalid.
    """

    record, unchanged = "gaussian_blur", GaussianBlur(0.0)

    def __init__(
        self,
        keys: KeysCollection,
        sigma: float | Sequence[float] = (0.5, 1.5),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.sigma = range_of("sigma", sigma, 0, WIDEST)

    def draw(self) -> GaussianBlur:
        """Draw sigma."""
        return GaussianBlur(float(self.R.uniform(*self.sigma)))


class RandAnisotropicGaussianBlurd(RandDegradationd):
    """Gaussian blur of two random widths and a random direction; the values go to ``anisotropic_gaussian_blur``.

    Args:
        keys: images, shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        sigma_along: standard deviation in pixels in the direction of the angle, at least 0.5, or a range of it, drawn
            uniformly.
        sigma_across: the same at a right angle to it.
        angle: in degrees, or a range of it, drawn uniformly.
        prob: probability to blur at all.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if a range is invalid.
    """

    record, unchanged = "anisotropic_gaussian_blur", AnisotropicGaussianBlur(0.0, 0.0)

    def __init__(
        self,
        keys: KeysCollection,
        sigma_along: float | Sequence[float] = (0.5, 5.0),
        sigma_across: float | Sequence[float] = (0.5, 5.0),
        angle: float | Sequence[float] = (0.0, 180.0),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.sigma_along = range_of("sigma_along", sigma_along, SHARPEST, WIDEST)
        self.sigma_across = range_of("sigma_across", sigma_across, SHARPEST, WIDEST)
        self.angle = range_of("angle", angle, -360, 360)

    def draw(self) -> AnisotropicGaussianBlur:
        """Draw both widths and the angle."""
        ranges = (self.sigma_along, self.sigma_across, self.angle)
        return AnisotropicGaussianBlur(*(float(self.R.uniform(*ends)) for ends in ranges))
