"""Adopt the adapted weights, or keep those that ship: a paired test over units, and what must not get worse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from medrestore_monai.adapt.scores import AFTER, BEFORE, UnitScores
from medrestore_monai.data.adaptation import LEAST_UNITS
from medrestore_monai.report.significance import paired_p_value

LEAST_GAIN = 0.05  # dB
ONE_SIDED = 0.025
_SSIM = 0.001  # that may be lost
_SIGNAL = 0.05  # part of the signal gain that may change
_MEAN = {"CT": (1.0, "HU"), "PT": (0.02, ""), "MR": (0.02, "")}  # that the mean may move away; of PET and MR relative


@dataclass(frozen=True)
class Decision:
    """The verdict.

    Attributes:
        adopt: whether the adapted weights are better beyond chance, and nothing speaks against them.
        reasons: what decided, one sentence each.
        gain: in dB, mean over units; NaN where nothing was judged.
        p_value: one-sided, of a paired t-test over units.
        least_visible: dB that would have been significant with the spread of these units.
        units: how many were judged.
        estimated: whether there was no target, so that all figures are estimates.
    """

    adopt: bool
    reasons: tuple[str, ...]
    gain: float = math.nan
    p_value: float = math.nan
    least_visible: float = math.nan
    units: int = 0
    estimated: bool = False

    @property
    def line(self) -> str:
        """The verdict in one line."""
        how = " (estimated without truth)" if self.estimated else ""
        return f"{'adopt' if self.adopt else 'keep the shipped weights'}: {'; '.join(self.reasons)}{how}."


def too_few(units: int) -> Decision:
    """Return the verdict where there are too few units to judge."""
    return Decision(
        False, (f"too few to tell, {units} units could be judged and {LEAST_UNITS} are needed",), units=units
    )


def decide(units: Sequence[UnitScores], modality: str) -> Decision:
    """Judge scores with a target.

    Args:
        units: at least two.
        modality: of the images.
    """
    if len(units) < LEAST_UNITS:
        return too_few(len(units))
    after = np.array([unit.psnr[AFTER] for unit in units])
    before = np.array([unit.psnr[BEFORE] for unit in units])
    gain, spread = float((after - before).mean()), float((after - before).std(ddof=1))
    p_value = one_sided(after, before, [unit.unit for unit in units])
    visible = least_visible(spread, len(units))
    against = []
    if gain < LEAST_GAIN:
        against.append(f"the gain of {gain:+.2f} dB is below {LEAST_GAIN} dB")
    if not p_value < ONE_SIDED:
        against.append(f"the gain of {gain:+.2f} dB may be chance (p = {p_value:.3f}, one-sided)")
    against += _guards(units, modality)
    reasons = against or [f"{gain:+.2f} dB on {len(units)} units that did not train (p = {p_value:.2g}, one-sided)"]
    return Decision(not against, tuple(reasons), gain, p_value, visible, len(units))


def least_visible(spread: float, units: int) -> float:
    """Return the gain in dB that would have been significant with this standard deviation over units."""
    return max(float(stats.t.ppf(1 - ONE_SIDED, units - 1)) * spread / math.sqrt(units), LEAST_GAIN)


def one_sided(values: np.ndarray, baseline: np.ndarray, groups: Sequence[int]) -> float:
    """Return the probability of a gain this large if there were none; NaN under two groups."""
    two_sided = paired_p_value(values, baseline, groups)
    return two_sided / 2 if float((values - baseline).mean()) > 0 else 1 - two_sided / 2


def _guards(units: Sequence[UnitScores], modality: str) -> list[str]:
    """Say what got worse that must not."""
    against = []
    lost = float(np.mean([unit.ssim[BEFORE] - unit.ssim[AFTER] for unit in units]))
    if lost > _SSIM:
        against.append(f"SSIM falls by {lost:.4f}")
    if modality in _MEAN:
        tolerance, name = _MEAN[modality]
        pairs = [(unit.mean[BEFORE], unit.mean[AFTER]) for unit in units if unit.mean]
        if pairs:
            before, after = (abs(float(np.mean(values))) for values in zip(*pairs, strict=True))
            if after > before + tolerance:
                words = [f"{value:.1f} {name}" if name else f"{100 * value:.1f} %" for value in (before, after)]
                against.append(f"the mean of the body is {words[1]} off, {words[0]} before")
    gains = [(unit.gain[BEFORE], unit.gain[AFTER]) for unit in units if len(unit.gain) == 2]
    if gains:
        before, after = (float(np.mean(values)) for values in zip(*gains, strict=True))
        if after < before * (1 - _SIGNAL) or after > max(before, 1.0) * (1 + _SIGNAL):
            against.append(f"the signal gain goes from {before:.2f} to {after:.2f}")
    return against
