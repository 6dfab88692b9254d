"""Noise of a sensor: additive, Gaussian, white.

Behind a blur it makes equation 1 of MedDeblur, ``I_B = K * I_G + S_N``: a blurred image and the noise of the sensor.
Images have the shape ``(C, X, Y)`` or ``(C, X, Y, Z)``; the standard deviation is in their unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.config import KeysCollection
from torch import Tensor

from medrestore_monai.transforms.degradation import Degradation, RandDegradationd, plain_slices, range_of

__all__ = ["RandSensorNoised", "SensorNoise", "add_sensor_noise"]


def add_sensor_noise(image: Tensor, std: float, seed: int, lower: float = -math.inf, upper: float = math.inf) -> Tensor:
    """Add white Gaussian noise, independent for every channel, pixel and slice.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        std: standard deviation in the unit of ``image``; 0 changes nothing.
        seed: of the noise.
        lower: least value the sensor reports; smaller results are set to it, unless the image is smaller itself.
        upper: greatest value it reports, likewise.

    Returns:
        The noisy image, same shape, float32 (float64 stays).

    Raises:
        ValueError: std is negative or not finite, ``lower`` is not below ``upper``, or the image has another shape.
    """
    values = plain_slices(image)
    _check(std, lower, upper)
    if std == 0:
        return values.clone()
    random = np.random.RandomState(seed)
    result = torch.empty_like(values)
    slices = [(values, result)] if values.ndim == 3 else zip(values.unbind(-1), result.unbind(-1), strict=True)
    for clean, noisy in slices:  # one at a time: the random numbers have double precision
        noisy.copy_(torch.from_numpy(random.normal(0.0, std, clean.shape)).to(clean) + clean)
    # outside of the range stays what was outside
    return torch.minimum(torch.maximum(result, values.clamp(max=lower)), values.clamp(min=upper))


@dataclass(frozen=True)
class SensorNoise(Degradation):
    """One drawn noise; see :func:`add_sensor_noise`.

    Args:
        std: standard deviation in the unit of the image; 0 changes nothing.
        seed: of the noise.
        lower: least value the sensor reports.
        upper: greatest value the sensor reports.
    """

    std: float
    seed: int = 0
    lower: float = -math.inf
    upper: float = math.inf

    def __call__(self, image: Tensor) -> Tensor:
        """Return the noisy image."""
        return add_sensor_noise(image, self.std, self.seed, self.lower, self.upper)


class RandSensorNoised(RandDegradationd):
    """White Gaussian noise of random strength; its values go to ``sensor_noise``.

    Args:
        keys: images, shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        std: standard deviation in the unit of the images, or a range of it, drawn uniformly.
        lower: least value the sensor reports, such as 0; by default there is none.
        upper: greatest value it reports, such as 255.
        prob: probability of noise at all.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if the range is invalid.
    """

    record, unchanged = "sensor_noise", SensorNoise(0.0)

    def __init__(
        self,
        keys: KeysCollection,
        std: float | Sequence[float],
        lower: float = -math.inf,
        upper: float = math.inf,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.std, self.lower, self.upper = range_of("std", std, 0), float(lower), float(upper)
        _check(self.std[0], self.lower, self.upper)

    def draw(self) -> SensorNoise:
        """Draw strength and seed."""
        std = float(self.R.uniform(*self.std))
        return SensorNoise(std, int(self.R.randint(2**31 - 1)), self.lower, self.upper)


def _check(std: float, lower: float, upper: float) -> None:
    if not 0 <= std < math.inf:
        raise ValueError(f"std must be 0 or more, got {std}.")
    if not lower < upper:
        raise ValueError(f"lower must be below upper, got {lower} and {upper}.")
