"""The error of a restoration, estimated without the truth, from the noise that the image is known to have.

For ``y = x + n``, normal noise of covariance ``S`` and mean variance ``T``, and a restoration ``f`` with Jacobian
``J``, Stein's identity gives ``E <f(y), n> = tr(S J) = r T N``, and ``r = <z, J z> / <z, z>`` takes one draw ``z`` of
the noise. White probes would give another ``r``: noise of CT is far from white. With the change
``A = mean (y - f(y))^2``, the error against ``x + kept n`` is ::

    R = A - 2 (1 - kept) (1 - r) T + (1 - kept)^2 T

and against a reference that has such noise of its own, ``kept (1 - kept) T`` more: a routine-dose image that shares
``kept`` of its noise with the low-dose one.

References:
    Stein, Estimation of the mean of a multivariate normal distribution, Ann Statist 9 (1981).
    Ramani, Blu and Unser, Monte-Carlo SURE, IEEE Trans Image Process 17 (2008).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

STEP = 0.1  # of the noise, by which the image is moved to either side

Restore = Callable[[Tensor], Tensor]


class DrawnNoise(Protocol):
    """What :mod:`~medrestore_monai.adapt.noise_model` measures."""

    @property
    def std(self) -> Tensor:
        """Standard deviation, shape ``(1, X, Y, Z)``."""

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw noise of the same shape."""


@dataclass(frozen=True)
class Risk:
    """What the error of one restored region is estimated from; all numbers are means over the region.

    Args:
        change: ``A``, mean square of what was removed.
        passed: ``r``, share of the noise that passes, correlated part only.
        variance: ``T`` of the noise.
    """

    change: float
    passed: float
    variance: float

    def error(self, kept: float = 0.0) -> float:
        """Mean square error against ``x + kept n``."""
        wanted = 1 - kept
        return self.change - 2 * wanted * (1 - self.passed) * self.variance + wanted**2 * self.variance

    def error_of_reference(self, kept: float = 0.0) -> float:
        """Mean square error against a reference that has such noise of its own."""
        return self.error(kept) + kept * (1 - kept) * self.variance

    @property
    def removed_correlation(self) -> float:
        """Squared correlation of what was removed with the noise: free of the strength, and of the share kept."""
        return self.variance * (1 - self.passed) ** 2 / self.change if self.change > 0 else 0.0

    @property
    def own_kept(self) -> float:
        """Share for which the restoration has just the right strength.

        ``1 - A / ((1 - r) T)``: there ``R`` of ``y + t (f(y) - y)`` is smallest at ``t = 1``. Unlike ``r`` it does not
        count what the best estimate of the image must let pass.
        """
        removed = (1 - self.passed) * self.variance
        return 1 - self.change / removed if removed > 0 else 1.0

    def at_level(self, factor: float) -> Risk:
        """Return the figures if the noise had ``factor`` times its standard deviation."""
        return replace(self, variance=self.variance * factor**2)


def measure_risk(
    restore: Restore,
    volume: Tensor,
    noise: DrawnNoise,
    mask: Tensor,
    seed: int = 0,
    probes: int = 1,
) -> list[Risk]:
    """Measure what the error of a restoration is estimated from, slice by slice.

    Two restorations are compared with the same seed, so that they see the same probes.

    Args:
        restore: of a volume in the unit of the noise, of the same shape.
        volume: noisy, shape ``(1, X, Y, Z)``.
        noise: that it has.
        mask: voxels that count, shape ``(1, X, Y, Z)``: where the restoration clips nothing.
        seed: of the probes.
        probes: how many.

    Returns:
        One for each slice; of an empty mask, one of zeros.

    Raises:
        ValueError: shapes differ, or there is no probe.
    """
    if mask.shape != volume.shape or volume.ndim != 4 or probes < 1:
        raise ValueError(
            f"expected a volume and a mask of one shape (1, X, Y, Z) and a probe or more, got {tuple(volume.shape)}, "
            f"{tuple(mask.shape)} and {probes}."
        )
    inside = mask.to(torch.float64)
    count = inside.sum(dim=(0, 1, 2)).clamp(min=1)
    change = ((volume - restore(volume)).double().square() * inside).sum(dim=(0, 1, 2)) / count
    variance = (noise.std.double().square() * inside).sum(dim=(0, 1, 2)) / count
    through, energy = torch.zeros_like(count), torch.zeros_like(count)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(probes):
        probe = noise.draw(generator).to(volume)
        moved = (restore(volume + STEP * probe) - restore(volume - STEP * probe)).double() / (2 * STEP)
        through += (probe * moved * inside).sum(dim=(0, 1, 2))
        energy += (probe.double().square() * inside).sum(dim=(0, 1, 2))
    passed = through / energy.clamp(min=1e-30)
    return [Risk(*(float(one) for one in row)) for row in zip(change, passed, variance, strict=True)]


def kept_share(risks: list[Risk]) -> float:
    """Share of the noise that a restoration keeps on purpose: the median of :attr:`Risk.own_kept`, in 0..1."""
    kept = torch.tensor([one.own_kept for one in risks if one.variance > 0])
    return float(kept.median().clamp(0, 1)) if len(kept) else 0.0
