"""A channelized Hotelling observer: how well does a linear reader of a few channels tell a known lesion from none?

Laguerre-Gauss channels suit a round lesion at a known place. Each place is seen with and without its lesion, with the
same noise, so that the mean response is known almost exactly and the spread of the channels decides. With a covariance
``S`` of ``m`` degrees of freedom and the mean response ``a``, ``m (a' K^-1 a) / (a' S^-1 a)`` is chi-square with
``m - p + 1`` degrees of freedom (Mardia, Kent, Bibby: Multivariate Analysis, theorem 3.4.7); where the mean response is
uncertain, too, the statistic follows a noncentral F distribution. ``AUC = Phi(d / sqrt(2))``.

References:
    Gallas and Barrett, Validating the use of channels to estimate the ideal linear observer, JOSA A 20, 1725 (2003)
    Wunderlich et al., Exact confidence intervals for channelized Hotelling observer performance in image quality
    studies, IEEE TMI 34, 453 (2015), https://doi.org/10.1109/TMI.2014.2360496
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import eval_laguerre
from scipy.stats import ncf, norm

CHANNELS = 5
LEAST_PAIRS = 50
_LEAST_SPREAD = 1e-3  # of the response, relative to the noise: below, the distribution does not change
_WIDEST = 40.0  # d


@dataclass(frozen=True)
class Performance:
    """What the observer reaches.

    Args:
        detectability: d, without the bias of few pairs; 0 where no signal can be told from chance.
        auc: area under the ROC curve.
        low: lower end of its 95 % interval.
        high: upper end.
        pairs: places that were seen with and without a lesion.
    """

    detectability: float
    auc: float
    low: float
    high: float
    pairs: int


def laguerre_gauss(side: int, width: float) -> np.ndarray:
    """Return channels of mean 0 and norm 1, shape ``(CHANNELS, side, side)``.

    Args:
        side: in pixels, odd.
        width: ``a`` of ``sqrt(2)/a exp(-pi r^2/a^2) L_j(2 pi r^2/a^2)``, in pixels.
    """
    steps = np.arange(side) - side // 2
    squared = (steps[:, None] ** 2 + steps**2) / width**2
    channels = np.stack([np.exp(-np.pi * squared) * eval_laguerre(j, 2 * np.pi * squared) for j in range(CHANNELS)])
    channels -= channels.mean(axis=(1, 2), keepdims=True)
    normed: np.ndarray = channels / np.sqrt((channels**2).sum(axis=(1, 2), keepdims=True))
    return normed


def observe(present: np.ndarray, absent: np.ndarray) -> Performance:
    """Return what the observer reaches on pairs.

    Args:
        present: channel outputs with the lesion, shape ``(n, p)``.
        absent: without it, at the same places.

    Raises:
        ValueError: the shapes differ, or there are too few pairs for so many channels.
    """
    if present.shape != absent.shape or present.ndim != 2:
        raise ValueError(f"expected two arrays of one shape (n, p), got {present.shape} and {absent.shape}.")
    pairs, count = present.shape
    if pairs < count + 4:
        raise ValueError(f"{count} channels need at least {count + 4} pairs, got {pairs}.")
    response = present - absent
    spread = np.atleast_2d(np.cov(response, rowvar=False))
    covariance = np.atleast_2d(np.cov((present + absent) / 2, rowvar=False)) + spread / 4
    mean = response.mean(axis=0)
    squared = float(mean @ np.linalg.solve(covariance, mean))
    noise = float(np.trace(np.linalg.solve(covariance, spread))) / count / pairs  # of the mean, over the covariance
    freedom = pairs - 1
    unbiased = (freedom - count - 1) / freedom * squared - noise * count
    detectability = float(np.sqrt(max(unbiased, 0.0)))
    low, high = (_limit(squared, noise, count, freedom, part) for part in (0.975, 0.025))
    return Performance(detectability, auc_of(detectability), auc_of(low), auc_of(high), pairs)


def auc_of(detectability: float) -> float:
    """Return the area under the ROC curve of two normal distributions of one width."""
    return float(norm.cdf(detectability / np.sqrt(2)))


def _limit(squared: float, noise: float, count: int, freedom: int, part: float) -> float:
    """Return the ``d`` for which a value up to the measured one has the probability ``part``; 0 where none is small."""
    scale = max(noise, _LEAST_SPREAD / freedom)  # of the mean
    tail = freedom - count + 1
    value = tail / (freedom * count) * squared / scale

    def excess(d: float) -> float:
        return float(ncf.cdf(value, count, tail, d**2 / scale)) - part

    if excess(1e-6) <= 0:
        return 0.0
    highest = max(4 * float(np.sqrt(squared)), 1.0)
    while excess(highest) > 0 and highest < _WIDEST:
        highest *= 2
    return float(brentq(excess, 1e-6, highest)) if excess(highest) < 0 else highest
