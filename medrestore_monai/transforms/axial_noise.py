"""White noise that is correlated along the axis of a stack, the same for a slice alone, a slab and the whole volume.

A scanner's noise does not end at a slice: the post filter of PET and the interpolation of spiral CT spread it along the
axis. Every slice number has a field of white noise of its own; a slice gets the weighted sum of the fields of its
neighborhood. The squares of the weights sum to 1, so that the noise within one slice is what it was without neighbors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["axial_weights", "axial_width", "correlation_of", "white_slices"]

_FWHM = math.sqrt(8 * math.log(2))  # full width at half maximum of a Gaussian of standard deviation 1
_REACH = 3.0  # standard deviations of the Gaussian that weigh
_MOST_REACH = 500  # slices to either side
_NUMBERS = 2**32  # slice numbers below 0 come from the other end


def axial_weights(width: float, distance: float) -> tuple[float, ...]:
    """Weights of the slices ``-n..n`` around a slice for a Gaussian filter along the axis.

    Args:
        width: full width at half maximum in mm, 0 for independent slices.
        distance: distance of neighboring slices in mm; 0 where there are no neighbors.

    Returns:
        ``2n + 1`` weights, symmetric, whose squares sum to 1.

    Raises:
        ValueError: one of the two is negative or infinite, or the filter reaches over more than 500 slices.
    """
    if not (0 <= width < math.inf and 0 <= distance < math.inf):
        raise ValueError(f"width and distance must be numbers of at least 0, got {width} and {distance}.")
    if width == 0 or distance == 0:
        return (1.0,)
    sigma = width / _FWHM / distance  # in slices
    reach = int(min(_REACH * sigma, _MOST_REACH) + 0.5)
    if reach >= _MOST_REACH:
        raise ValueError(f"a width of {width} mm is too great for slices {distance} mm apart: give less, or 0.")
    weights = [math.exp(-((offset / sigma) ** 2) / 2) for offset in range(-reach, reach + 1)]
    norm = math.sqrt(sum(weight * weight for weight in weights))
    return tuple(weight / norm for weight in weights)


def correlation_of(weights: Sequence[float], lag: int = 1) -> float:
    """Correlation of the noise of two slices ``lag`` apart, in -1..1, for weights of :func:`axial_weights`."""
    return float(sum(a * b for a, b in zip(weights, weights[lag:], strict=False)))


def axial_width(correlation: float, distance: float) -> float:
    """Full width at half maximum in mm of the filter that correlates neighboring slices so much.

    Args:
        correlation: of neighboring slices, in [0, 0.95].
        distance: of neighboring slices in mm, above 0.

    Raises:
        ValueError: for values outside of these ranges.
    """
    if not (0 <= correlation <= 0.95 and 0 < distance < math.inf):
        raise ValueError(f"correlation must be in 0..0.95 and distance above 0, got {correlation} and {distance}.")
    if correlation == 0:
        return 0.0
    low, high = 0.0, 20 * distance
    for _ in range(60):  # the correlation rises with the width
        middle = (low + high) / 2
        low, high = (middle, high) if correlation_of(axial_weights(middle, distance)) < correlation else (low, middle)
    return (low + high) / 2


def white_slices(
    seed: int, numbers: Sequence[int], size: tuple[int, int], weights: Sequence[float] = (1.0,)
) -> np.ndarray:
    """White noise of some slices of a volume, correlated with that of their neighbors.

    Args:
        seed: of the volume.
        numbers: of the slices in their volume, the same for any part of it; they may be negative.
        size: shape ``(X, Y)`` of a slice.
        weights: an odd count of them, of :func:`axial_weights`.

    Returns:
        Normal values of mean 0 and variance 1, independent within each slice, float32, shape ``(S, X, Y)``.

    Raises:
        ValueError: the count of weights is even.
    """
    if len(weights) % 2 == 0:
        raise ValueError(f"the weights must be those of an odd count of slices, got {len(weights)}.")
    reach = len(weights) // 2
    fields: dict[int, np.ndarray] = {}
    mixed: np.ndarray = np.zeros((len(numbers), *size), dtype=np.float32)
    for place, number in enumerate(numbers):
        for offset, weight in zip(range(-reach, reach + 1), weights, strict=True):
            near = number + offset
            if near not in fields:
                fields[near] = _field(seed, near, size)
            mixed[place] += np.float32(weight) * fields[near]
        fields = {near: field for near, field in fields.items() if near > number - reach}  # slices come in order
    return mixed


def _field(seed: int, number: int, size: tuple[int, int]) -> np.ndarray:
    """White noise that belongs to one slice number."""
    state = np.random.SeedSequence((seed, number % _NUMBERS)).generate_state(4)
    return np.random.RandomState(state).standard_normal(size).astype(np.float32)
