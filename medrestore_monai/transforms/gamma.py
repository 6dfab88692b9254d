"""The tone curve of a camera or a display: a power of the relative intensity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from monai.config import KeysCollection
from torch import Tensor

from medrestore_monai.transforms.degradation import Degradation, RandDegradationd, plain_slices, range_of

__all__ = ["Gamma", "RandGammad", "apply_gamma"]


def apply_gamma(image: Tensor, gamma: float, lower: float = 0.0, upper: float = 255.0) -> Tensor:
    """Raise the intensity, relative to ``lower..upper``, to the power of ``gamma``.

    Above 1 the middle gets darker, below 1 brighter; the ends of the range and what lies outside stay. MONAI's
    ``AdjustContrast`` takes the range from each image's own extremes, so that a crop would get another curve.

    Args:
        image: any shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        gamma: exponent above 0; 1 changes nothing.
        lower: value that stays dark, in the unit of ``image``.
        upper: value that stays bright.

    Returns:
        The image on the new curve, same shape, float32 (float64 stays).

    Raises:
        ValueError: gamma is not above 0 and finite, or ``lower`` is not below ``upper``.
    """
    values = plain_slices(image)
    _check(gamma, lower, upper)
    if gamma == 1:
        return values.clone()
    inside = values.clamp(lower, upper)
    curve = ((inside - lower) / (upper - lower)) ** gamma
    return curve * (upper - lower) + lower + (values - inside)


@dataclass(frozen=True)
class Gamma(Degradation):
    """One drawn tone curve; see :func:`apply_gamma`.

    Args:
        gamma: exponent; 1 changes nothing.
        lower: value that stays dark, in the unit of the image.
        upper: value that stays bright.
    """

    gamma: float
    lower: float = 0.0
    upper: float = 255.0

    def __call__(self, image: Tensor) -> Tensor:
        """Return the image on the new curve."""
        return apply_gamma(image, self.gamma, self.lower, self.upper)


class RandGammad(RandDegradationd):
    """A random tone curve; its values go to ``gamma``.

    Args:
        keys: images, shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        gamma: exponent, or a range of it, drawn log-uniformly.
        lower: value that stays dark, in the unit of the images.
        upper: value that stays bright.
        prob: probability of another curve at all.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if the range is invalid.
    """

    record, unchanged = "gamma", Gamma(1.0)

    def __init__(
        self,
        keys: KeysCollection,
        gamma: float | Sequence[float] = (0.5, 2.0),
        lower: float = 0.0,
        upper: float = 255.0,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.gamma, self.lower, self.upper = range_of("gamma", gamma, 0), float(lower), float(upper)
        _check(self.gamma[0], self.lower, self.upper)

    def draw(self) -> Gamma:
        """Draw the exponent."""
        low, high = map(math.log, self.gamma)
        return Gamma(math.exp(self.R.uniform(low, high)), self.lower, self.upper)


def _check(gamma: float, lower: float, upper: float) -> None:
    if not 0 < gamma < math.inf:
        raise ValueError(f"gamma must be above 0, got {gamma}.")
    if not lower < upper:
        raise ValueError(f"lower must be below upper, got {lower} and {upper}.")
