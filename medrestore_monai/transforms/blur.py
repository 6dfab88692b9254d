"""Blurs: motion as in MedDeblur, straight uniform motion, and Gaussian.

Images have the shape ``(C, X, Y)`` or ``(C, X, Y, Z)``, in any unit; a volume is blurred slice by slice with the same
kernel. Beyond its border an image goes on as its mirror image, the outermost pixel not repeated ("reflect"). The
result has the image's shape, keeps flat areas flat and is not shifted. Where a patch is to look like a part of a
blurred slice up to its border, blur the slice first, or crop wider. Lengths are in pixels; angles in degrees, from the
first spatial axis towards the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.config import KeysCollection
from torch import Tensor

from medrestore_monai.transforms.blur_kernels import WIDEST, gaussian_kernel, linear_motion_kernel, motion_kernel
from medrestore_monai.transforms.degradation import Degradation, RandDegradationd, plain_slices, range_of

__all__ = [
    "GaussianBlur",
    "LinearMotionBlur",
    "MotionBlur",
    "RandGaussianBlurd",
    "RandLinearMotionBlurd",
    "RandMotionBlurd",
    "blur",
    "gaussian_blur",
    "linear_motion_blur",
    "motion_blur",
]


def blur(image: Tensor, kernel: np.ndarray) -> Tensor:
    """Convolve every slice with a kernel.

    The products are added up one kernel pixel after the other, so the result does not depend on the machine or on
    threads. The kernels here have few pixels that are not 0.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        kernel: weights, shape ``(A, B)``, both odd.

    Returns:
        The blurred image, same shape, float32 (float64 stays).

    Raises:
        ValueError: the image has another shape, or a side of the kernel is even.
    """
    values = plain_slices(image)
    if kernel.ndim != 2 or not all(side % 2 for side in kernel.shape):
        raise ValueError(f"kernel must be two-dimensional with odd sides, got the shape {kernel.shape}.")
    x, y = (_mirrored(size, side // 2) for size, side in zip(values.shape[1:3], kernel.shape, strict=True))
    padded = values[:, x.to(values.device)][:, :, y.to(values.device)]
    result = torch.zeros_like(values)
    for a, b in np.argwhere(kernel).tolist():
        # a convolution: the kernel is turned around
        first, second = kernel.shape[0] - 1 - a, kernel.shape[1] - 1 - b
        window = padded[:, first : first + values.shape[1], second : second + values.shape[2]]
        result += window * float(kernel[a, b])
    return result


def motion_blur(image: Tensor, length: int, angle: float) -> Tensor:
    """Blur as algorithm 1 of MedDeblur, see :func:`~medrestore_monai.transforms.blur_kernels.motion_kernel`.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        length: side of the kernel in pixels, at least 1; 1 changes nothing.
        angle: rotation of its diagonal in degrees.
    """
    return blur(image, motion_kernel(length, angle))


def linear_motion_blur(image: Tensor, length: float, angle: float) -> Tensor:
    """Blur along a straight path, see :func:`~medrestore_monai.transforms.blur_kernels.linear_motion_kernel`.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        length: of the path in pixels, at least 1.
        angle: of the path in degrees; 0 is along the first spatial axis.
    """
    return blur(image, linear_motion_kernel(length, angle))


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian, cut off at 4 standard deviations.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        sigma: standard deviation in pixels; 0 changes nothing.
    """
    kernel = gaussian_kernel(sigma)
    return blur(blur(image, kernel[:, None]), kernel[None, :])


@dataclass(frozen=True)
class MotionBlur(Degradation):
    """One drawn motion blur; see :func:`motion_blur`.

    Args:
        length: side of the kernel in pixels; 1 changes nothing.
        angle: rotation of its diagonal in degrees.
    """

    length: int
    angle: float = 0.0

    def __call__(self, image: Tensor) -> Tensor:
        """Return the blurred image."""
        return motion_blur(image, self.length, self.angle)


@dataclass(frozen=True)
class LinearMotionBlur(Degradation):
    """One drawn straight motion; see :func:`linear_motion_blur`.

    Args:
        length: of the path in pixels; 1 changes nothing.
        angle: of the path in degrees.
    """

    length: float
    angle: float = 0.0

    def __call__(self, image: Tensor) -> Tensor:
        """Return the blurred image."""
        return linear_motion_blur(image, self.length, self.angle)


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


class RandMotionBlurd(RandDegradationd):
    """Motion blur of random length and angle, by default those of MedDeblur; the values go to ``motion_blur``.

    MedDeblur's pictures measure some 256 pixels; take shorter lengths for much smaller ones. With
    :class:`~medrestore_monai.transforms.RandSensorNoised` behind it, this is the paper's equation 1.

    Args:
        keys: images, shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        length: side of the kernel in whole pixels, or a range of it, drawn uniformly, both ends included.
        angle: rotation in degrees, or a range of it, drawn uniformly.
        prob: probability to blur at all.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: for a range that is none, or lengths that are not whole numbers.
    """

    record, unchanged = "motion_blur", MotionBlur(1)

    def __init__(
        self,
        keys: KeysCollection,
        length: int | Sequence[int] = (20, 45),
        angle: float | Sequence[float] = (-45.0, 45.0),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.length, self.angle = range_of("length", length, 1, WIDEST), range_of("angle", angle, -360, 360)
        if any(end != int(end) for end in self.length):
            raise ValueError(f"length must be in whole pixels, got {length}.")

    def draw(self) -> MotionBlur:
        """Draw length and angle."""
        shortest, longest = map(int, self.length)
        return MotionBlur(int(self.R.randint(shortest, longest + 1)), float(self.R.uniform(*self.angle)))


class RandLinearMotionBlurd(RandDegradationd):
    """Straight motion of random length and direction; the values go to ``linear_motion_blur``.

    The defaults are for pictures of 28x28 pixels, as those of AFF-UNet-RWKV, which states no values.

    Args:
        keys: images, shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        length: of the path in pixels, or a range of it, drawn uniformly.
        angle: of the path in degrees, or a range of it, drawn uniformly.
        prob: probability to blur at all.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: for a range that is none.
    """

    record, unchanged = "linear_motion_blur", LinearMotionBlur(1.0)

    def __init__(
        self,
        keys: KeysCollection,
        length: float | Sequence[float] = (3.0, 9.0),
        angle: float | Sequence[float] = (0.0, 180.0),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.length, self.angle = range_of("length", length, 1, WIDEST), range_of("angle", angle, -360, 360)

    def draw(self) -> LinearMotionBlur:
        """Draw length and angle."""
        return LinearMotionBlur(float(self.R.uniform(*self.length)), float(self.R.uniform(*self.angle)))


class RandGaussianBlurd(RandDegradationd):
    """Gaussian blur of random width; it goes to ``gaussian_blur``.

    The default is for pictures of 28x28 pixels, as those of AFF-UNet-RWKV, which states no values.

    Args:
        keys: images, shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        sigma: standard deviation in pixels, or a range of it, drawn uniformly.
        prob: probability to blur at all.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: for a range that is none.
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


def _mirrored(size: int, margin: int) -> Tensor:
    """Indices of ``size`` pixels and of their mirror images for ``margin`` more at either end, however many."""
    period = max(2 * (size - 1), 1)
    index = torch.arange(-margin, size + margin).remainder(period)
    return torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index)
