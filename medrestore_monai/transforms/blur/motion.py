"""Motion: as in MedDeblur, straight, and along a bent path.

Lengths are in pixels; angles in degrees, from the first spatial axis towards the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monai.config import KeysCollection
from torch import Tensor

from medrestore_monai.transforms.blur.convolution import blur
from medrestore_monai.transforms.blur.kernels import (
    WIDEST,
    bent_path,
    linear_motion_kernel,
    motion_kernel,
    path_kernel,
)
from medrestore_monai.transforms.degradation import Degradation, RandDegradationd, range_of

__all__ = [
    "BentMotionBlur",
    "LinearMotionBlur",
    "MotionBlur",
    "PublishedMotionBlur",
    "RandBentMotionBlurd",
    "RandLinearMotionBlurd",
    "RandMotionBlurd",
    "RandPublishedMotionBlurd",
    "bent_motion_blur",
    "linear_motion_blur",
    "motion_blur",
]


def motion_blur(image: Tensor, length: int, angle: float, divisor: str = "sum") -> Tensor:
    """Blur as algorithm 1 of MedDeblur, see :func:`~medrestore_monai.transforms.blur.kernels.motion_kernel`.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        length: side of the kernel in pixels, at least 1; 1 changes nothing.
        angle: rotation of its diagonal in degrees.
        divisor: see there; ``length`` makes the image darker.
    """
    return blur(image, motion_kernel(length, angle, divisor))


def linear_motion_blur(image: Tensor, length: float, angle: float) -> Tensor:
    """Blur along a straight path, see :func:`~medrestore_monai.transforms.blur.kernels.linear_motion_kernel`.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        length: of the path in pixels, at least 1.
        angle: of the path in degrees; 0 is along the first spatial axis.
    """
    return blur(image, linear_motion_kernel(length, angle))


def bent_motion_blur(image: Tensor, length: float, bend: float, angle: float, seed: int) -> Tensor:
    """Blur along a bent path, see :func:`~medrestore_monai.transforms.blur.kernels.bent_path`.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        length: along the path, in pixels; 0 changes nothing.
        bend: root mean square of the direction about its mean, in degrees, 0 to 180; 0 is straight.
        angle: mean direction in degrees; 0 is along the first spatial axis.
        seed: of the path's shape.
    """
    return blur(image, path_kernel(bent_path(length, bend, angle, seed)))


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
class PublishedMotionBlur(MotionBlur):
    """One drawn motion blur by the kernels of MedDeblur's code, which make the image darker; see :func:`motion_blur`.

    Args:
        length: side of the kernel in pixels; 1 changes nothing.
        angle: rotation of its diagonal in degrees.
    """

    def __call__(self, image: Tensor) -> Tensor:
        """Return the blurred image."""
        return motion_blur(image, self.length, self.angle, divisor="length")


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
class BentMotionBlur(Degradation):
    """One drawn motion along a bent path; see :func:`bent_motion_blur`.

    Args:
        length: along the path, in pixels; 0 changes nothing.
        bend: root mean square of the direction about its mean, in degrees.
        angle: mean direction in degrees.
        seed: of the path's shape.
    """

    length: float
    bend: float = 0.0
    angle: float = 0.0
    seed: int = 0

    def __call__(self, image: Tensor) -> Tensor:
        """Return the blurred image."""
        return bent_motion_blur(image, self.length, self.bend, self.angle, self.seed)


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
        ValueError: if a range is invalid, or lengths that are not whole numbers.
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


class RandPublishedMotionBlurd(RandMotionBlurd):
    """As :class:`RandMotionBlurd`, by the kernels of MedDeblur's code, which sum to 0.8 on average.

    The values go to ``published_motion_blur``.
    """

    record, unchanged = "published_motion_blur", PublishedMotionBlur(1)

    def draw(self) -> PublishedMotionBlur:
        """Draw length and angle, as :class:`RandMotionBlurd` does."""
        drawn = super().draw()
        return PublishedMotionBlur(drawn.length, drawn.angle)


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
        ValueError: if a range is invalid.
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


class RandBentMotionBlurd(RandDegradationd):
    """Motion along a bent path of random length, direction and shape; the values go to ``bent_motion_blur``.

    It is how a camera shakes, or a patient moves while a picture is taken.

    Args:
        keys: images, shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        length: along the path, in pixels, or a range of it, drawn uniformly.
        bend: root mean square of the direction about its mean, in degrees, or a range of it within 0 to 180, drawn
            uniformly.
        angle: mean direction in degrees, or a range of it, drawn uniformly.
        prob: probability to blur at all.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if a range is invalid.
    """

    record, unchanged = "bent_motion_blur", BentMotionBlur(0.0)

    def __init__(
        self,
        keys: KeysCollection,
        length: float | Sequence[float] = (3.0, 31.0),
        bend: float | Sequence[float] = (15.0, 75.0),
        angle: float | Sequence[float] = (0.0, 360.0),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.length, self.angle = range_of("length", length, 0, WIDEST), range_of("angle", angle, -360, 360)
        self.bend = range_of("bend", bend, 0, 180)

    def draw(self) -> BentMotionBlur:
        """Draw length, bend, angle and shape."""
        length, bend, angle = (float(self.R.uniform(*ends)) for ends in (self.length, self.bend, self.angle))
        return BentMotionBlur(length, bend, angle, int(self.R.randint(2**31 - 1)))
