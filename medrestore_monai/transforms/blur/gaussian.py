"""Gaussian blur. Lengths are in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monai.config import KeysCollection
from torch import Tensor

from medrestore_monai.transforms.blur.convolution import blur
from medrestore_monai.transforms.blur.kernels import WIDEST, gaussian_kernel
from medrestore_monai.transforms.degradation import Degradation, RandDegradationd, range_of

__all__ = ["GaussianBlur", "RandGaussianBlurd", "gaussian_blur"]


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian, cut off at 4 standard deviations.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        sigma: standard deviation in pixels; 0 changes nothing.
    """
    kernel = gaussian_kernel(sigma)
    return blur(blur(image, kernel[:, None]), kernel[None, :])


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
