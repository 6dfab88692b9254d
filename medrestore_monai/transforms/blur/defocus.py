"""Defocus. Lengths are in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monai.config import KeysCollection
from torch import Tensor

from medrestore_monai.transforms.blur.convolution import blur
from medrestore_monai.transforms.blur.kernels import WIDEST, disk_kernel
from medrestore_monai.transforms.degradation import Degradation, RandDegradationd, range_of

__all__ = ["DefocusBlur", "RandDefocusBlurd", "defocus_blur"]


def defocus_blur(image: Tensor, radius: float) -> Tensor:
    """Blur with a uniform disk, see :func:`~medrestore_monai.transforms.blur.kernels.disk_kernel`.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        radius: in pixels; up to 0.5 it changes nothing.
    """
    return blur(image, disk_kernel(radius))


@dataclass(frozen=True)
class DefocusBlur(Degradation):
    """One drawn defocus; see :func:`defocus_blur`.

    Args:
        radius: in pixels; up to 0.5 it changes nothing.
    """

    radius: float

    def __call__(self, image: Tensor) -> Tensor:
        """Return the blurred image."""
        return defocus_blur(image, self.radius)


class RandDefocusBlurd(RandDegradationd):
    """Defocus of random radius; it goes to ``defocus_blur``.

    Args:
        keys: images, shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        radius: of the disk in pixels, or a range of it, drawn uniformly; by default disks of 3 to 31 pixels across.
        prob: probability to blur at all.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if the range is invalid.
    """

    record, unchanged = "defocus_blur", DefocusBlur(0.0)

    def __init__(
        self,
        keys: KeysCollection,
        radius: float | Sequence[float] = (1.5, 15.5),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.radius = range_of("radius", radius, 0, WIDEST)

    def draw(self) -> DefocusBlur:
        """Draw the radius."""
        return DefocusBlur(float(self.R.uniform(*self.radius)))
