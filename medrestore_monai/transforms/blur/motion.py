"""Motion: as in MedDeblur, and straight.

Lengths are in pixels; angles in degrees, from the first spatial axis towards the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monai.config import KeysCollection
from torch import Tensor

from medrestore_monai.transforms.blur.convolution import blur
from medrestore_monai.transforms.blur.kernels import WIDEST, linear_motion_kernel, motion_kernel
from medrestore_monai.transforms.degradation import Degradation, RandDegradationd, range_of

__all__ = [
    "LinearMotionBlur",
    "MotionBlur",
    "RandLinearMotionBlurd",
    "RandMotionBlurd",
    "linear_motion_blur",
    "motion_blur",
]


def motion_blur(image: Tensor, length: int, angle: float) -> Tensor:
    """Blur as algorithm 1 of MedDeblur, see :func:`~medrestore_monai.transforms.blur.kernels.motion_kernel`.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        length: side of the kernel in pixels, at least 1; 1 changes nothing.
        angle: rotation of its diagonal in degrees.
    """
    return blur(image, motion_kernel(length, angle))


def linear_motion_blur(image: Tensor, length: float, angle: float) -> Tensor:
    """Blur along a straight path, see :func:`~medrestore_monai.transforms.blur.kernels.linear_motion_kernel`.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        length: of the path in pixels, at least 1.
        angle: of the path in degrees; 0 is along the first spatial axis.
    """
    return blur(image, linear_motion_kernel(length, angle))


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
