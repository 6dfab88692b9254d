"""How sure a mean is, and whether two methods differ: over patients, as slices of one patient are alike."""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats

__all__ = ["bootstrap_interval", "paired_p_value"]

LEAST_GROUPS = 4  # with two or three, the ends of the interval are the groups themselves


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable],
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Interval of the mean of ``values``: whole groups are drawn with replacement, and the quantiles taken.

    Args:
        values: one per slice, finite.
        groups: the patient (or volume) of each value.
        seed: of the draw; the same interval on every machine and with every version of NumPy.
        level: probability that the interval is to cover.
        resamples: how many times all groups are drawn.

    Returns:
        Lower and upper end; NaN where there are fewer than four groups, of which the ends would be the extremes, or a
        value is infinite.

    Raises:
        ValueError: if there are no values, not one group each, or ``level`` is not in (0, 1).

    References:
        Efron and Tibshirani, An introduction to the bootstrap, chapter 13 (percentile interval)
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}.")
    sums, counts = _by_group(values, groups)
    if len(sums) < LEAST_GROUPS or not np.isfinite(sums).all():
        return float("nan"), float("nan")
    # RandomState is frozen: Generator may draw other numbers in another version
    drawn = np.random.RandomState(seed).randint(0, len(sums), size=(resamples, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    lower, upper = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)


def paired_p_value(
    values: Sequence[float] | np.ndarray, baseline: Sequence[float] | np.ndarray, groups: Sequence[Hashable]
) -> float:
    """Probability of a difference this large if two methods were alike: a two-sided paired t-test on group means.

    Args:
        values: one per slice.
        baseline: those of the method to compare with, same slices in the same order.
        groups: the patient (or volume) of each slice.

    Returns:
        The p-value: 1 where all differences are zero, NaN where there are fewer than two groups or a value is infinite.

    Raises:
        ValueError: if the counts differ.
    """
    if len(values) != len(baseline):
        raise ValueError(f"a paired test needs as many values of both, got {len(values)} and {len(baseline)}.")
    with np.errstate(invalid="ignore"):
        sums, counts = _by_group(np.asarray(values, dtype=float) - np.asarray(baseline, dtype=float), groups)
    if len(sums) < 2 or not np.isfinite(sums).all():
        return float("nan")
    means = sums / counts
    if np.ptp(means) == 0:
        return 1.0 if means[0] == 0 else 0.0
    return float(stats.ttest_1samp(means, 0.0).pvalue)


def _by_group(values: Sequence[float] | np.ndarray, groups: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and count of the values of each group, in the order in which groups come first."""
    if len(values) != len(groups) or len(values) == 0:
        raise ValueError(f"expected one group for each of one value or more, got {len(groups)} for {len(values)}.")
    order = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    members = [order[group] for group in groups]
    return np.bincount(members, weights=np.asarray(values, dtype=float)), np.bincount(members)
