"""Adopt adapted weights or keep the shipped ones, where there is no target: by estimated errors.

The noise was measured, so everything is asked at several of its plausible values: its level and the share to keep move
the estimate of both weights alike, and only what holds at all of them counts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medrestore_monai.adapt.guards import Guard, failed
from medrestore_monai.adapt.risk import Risk
from medrestore_monai.report.significance import paired_p_value

LEAST_GAIN = 0.05  # dB
ONE_SIDED = 0.025
LEAST_UNITS = 5
LEVELS = (0.9, 1.0, 1.1)
KEPT_STEP = 0.05


@dataclass(frozen=True)
class EstimatedVerdict:
    """What was decided, and by which figures.

    Attributes:
        adopt: whether to adopt the adapted weights.
        reasons: why not; or what speaks for it.
        gain: predicted, in dB, mean over units, against a reference that has noise of its own.
        p_value: one-sided, paired over groups.
        gains: predicted gain by level, share kept and spectrum, ``"0.9, 0.25, 1"``.
        units: that were judged.
    """

    adopt: bool
    reasons: tuple[str, ...]
    gain: float
    p_value: float
    gains: dict[str, float]
    units: int


def predicted_gain(shipped: Sequence[Risk], adapted: Sequence[Risk], kept: float, level: float = 1.0) -> np.ndarray:
    """Predicted gain in dB of each unit, at a level of the noise; NaN where an error is estimated as negative."""
    pairs = [
        [one.at_level(level).error_of_reference(kept) for one in (before, after)]
        for before, after in zip(shipped, adapted, strict=True)
    ]
    return np.array(
        [10 * math.log10(before / after) if min(before, after) > 0 else math.nan for before, after in pairs]
    )


def decide_without_targets(
    shipped: Sequence[Sequence[Risk]],
    adapted: Sequence[Sequence[Risk]],
    groups: Sequence[Hashable],
    kept: float,
    guards: Sequence[Guard] = (),
) -> EstimatedVerdict:
    """Judge adapted weights by estimated errors.

    Args:
        shipped: figures of the shipped weights: for each plausible spectrum, first the measured one, one for each unit.
        adapted: of the adapted weights, with the same probes.
        groups: the person of each unit; of one person alone, blocks of slices 20 mm apart.
        kept: share of the noise that the output is to keep, as the shipped weights do.
        guards: what must stay.

    Raises:
        ValueError: the counts differ.
    """
    counts = {len(one) for one in (*shipped, *adapted, groups)}
    if len(counts) != 1 or len(shipped) != len(adapted) or not shipped:
        raise ValueError("figures of both weights must be of the same units and spectra, with one group for each unit.")
    units = len(set(groups))
    if units < LEAST_UNITS:
        reason = f"{units} groups are too few to tell: {LEAST_UNITS} are needed"
        return EstimatedVerdict(False, (reason,), math.nan, math.nan, {}, units)
    nominal = predicted_gain(shipped[0], adapted[0], kept)
    by_setting = dict(_gains(shipped, adapted, kept))
    gain = float(nominal.mean())
    p_value = _one_sided(nominal, groups)
    against = _against(gain, p_value, by_setting)
    correlations = [float(np.mean([one.removed_correlation for one in risks])) for risks in (shipped[0], adapted[0])]
    if correlations[1] < correlations[0]:
        against.append(
            f"what is removed is less like noise (squared correlation {correlations[1]:.3f}, was {correlations[0]:.3f})"
        )
    against += failed(list(guards))
    reasons = against or [f"{gain:+.2f} dB estimated on {units} groups (p = {p_value:.2g}, one-sided)"]
    return EstimatedVerdict(not against, tuple(reasons), gain, p_value, by_setting, units)


def _against(gain: float, p_value: float, by_setting: dict[str, float]) -> list[str]:
    if not math.isfinite(gain):
        return ["the error of a unit is estimated as negative: the noise is not as it was measured"]
    against = []
    if gain < LEAST_GAIN:
        against.append(f"the estimated gain of {gain:+.2f} dB is below {LEAST_GAIN} dB")
    if not p_value < ONE_SIDED:
        against.append(f"the estimated gain of {gain:+.2f} dB may be chance (p = {p_value:.3f}, one-sided)")
    worst = min(by_setting, key=lambda name: by_setting[name] if math.isfinite(by_setting[name]) else -math.inf)
    if not by_setting[worst] > 0:  # NaN counts as against
        against.append(f"the estimated gain depends on the noise assumed: {by_setting[worst]:+.2f} dB at {worst}")
    return against


def _gains(
    shipped: Sequence[Sequence[Risk]], adapted: Sequence[Sequence[Risk]], kept: float
) -> Iterator[tuple[str, float]]:
    for spectrum, (before, after) in enumerate(zip(shipped, adapted, strict=True)):
        for level in LEVELS:
            for share in sorted({min(max(kept + step, 0.0), 1.0) for step in (-KEPT_STEP, 0.0, KEPT_STEP)}):
                name = f"level {level:g}, share {share:.2f}, spectrum {spectrum + 1}"
                yield name, float(predicted_gain(before, after, share, level).mean())


def _one_sided(gains: np.ndarray, groups: Sequence[Hashable]) -> float:
    two_sided = paired_p_value(gains, np.zeros_like(gains), groups)
    return two_sided / 2 if float(gains.mean()) > 0 else 1 - two_sided / 2
