"""The traffic light: green, yellow or red, with the reasons in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medrestore_monai.audit.faithfulness import Faithfulness
from medrestore_monai.audit.figures import Figure
from medrestore_monai.audit.scope import NEAR, OUT, Scope

GREEN, YELLOW, RED = "green", "yellow", "red"
_ORDER = (GREEN, YELLOW, RED)
# from which a light is yellow, and red
_CT_SHIFT = {"lung": (10.0, 30.0), "fat": (3.0, 8.0), "soft tissue": (3.0, 8.0), "bone": (10.0, 30.0)}  # HU
_PET_MEAN, _PET_TOTAL, _MR_MEAN, _MR_RESIDUAL = (0.05, 0.15), (0.02, 0.10), (0.03, 0.10), (0.05, 0.20)
_TEXTURE = 0.7  # of the mean frequency before
_NOISE = 1.1  # of the noise of CT and PET before, which a restoration lowers
_SHARPNESS, _GAIN = (0.95, 0.80), (0.90, 0.70)  # of before, below which a light is yellow, and red


@dataclass(frozen=True)
class Verdict:
    """A light and why it has its color.

    Args:
        light: "green", "yellow" or "red".
        reasons: for people; those of the worst color first.
    """

    light: str
    reasons: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        return {"light": self.light, "reasons": list(self.reasons)}


def judge(
    noise: Sequence[Figure],
    sharpness: Sequence[Figure],
    gain: Sequence[Figure],
    bias: Sequence[Figure],
    scope: Scope,
    faithfulness: Faithfulness,
) -> Verdict:
    """Weigh all figures; what could not be measured makes no light green.

    Raises the light by the worst finding. Where nothing speaks against a result, and its noise or its change could not
    be measured, the light is yellow.
    """
    found: list[tuple[str, str]] = []
    if scope.state in (NEAR, OUT):
        found += [(RED if scope.state == OUT else YELLOW, reason) for reason in scope.reasons]
    found += _changes(faithfulness)
    for figure in bias:
        found += _shift(figure)
    found += [reason for figure in noise for reason in (*_texture(figure), *_noisier(figure))]
    for figure in sharpness:
        if figure.name.endswith("after over before") and figure.ci95 is not None and figure.after is not None:
            # the interval's upper end: what noise may explain is no finding
            found += _below(figure, figure.ci95[1], _SHARPNESS, f"edges ({figure.region}) are blurred")
    for figure in gain[:2]:  # at high frequencies, noise that is left tips the balance
        if figure.after is not None:
            found += _below(figure, figure.after, _GAIN, f"structure at {figure.region} is weakened")
    for name, figures in (("noise", noise), ("change against noise", faithfulness.figures)):
        if all(figure.not_measured for figure in figures):
            found.append((YELLOW, f"the {name} could not be measured: {_because(figures[0])}"))
    found.sort(key=lambda one: -_ORDER.index(one[0]))
    if not found:
        return Verdict(GREEN, ["nothing was found that speaks against the result"])
    return Verdict(found[0][0], [reason for _, reason in found])


def _changes(faithfulness: Faithfulness) -> list[tuple[str, str]]:
    if not faithfulness.count:
        return []
    strongest = faithfulness.flags[0]
    kind = "brighter" if strongest.z > 0 else "darker"
    color = RED if abs(strongest.z) > 2 * faithfulness.threshold else YELLOW
    regions = "1 region" if faithfulness.count == 1 else f"{faithfulness.count} regions"
    return [
        (
            color,
            f"{regions} changed by more than noise explains; the strongest is {kind}, |z| = {abs(strongest.z):.1f} in "
            f"slice {strongest.slice + 1}",
        )
    ]


def _texture(figure: Figure) -> list[tuple[str, str]]:
    if figure.name != "mean frequency of noise" or not figure.before or figure.after is None:
        return []
    kept = figure.after / figure.before
    text = f"the noise that is left is coarser: its mean frequency is {kept:.2f} of before"
    return [(YELLOW, text)] if kept < _TEXTURE else []


def _noisier(figure: Figure) -> list[tuple[str, str]]:
    if figure.name != "noise SD" or figure.unit not in ("HU", "1") or not figure.before or figure.after is None:
        return []
    rose = figure.after / figure.before
    text = f"the noise is {rose:.2f} of before, which a restoration lowers: was the source given first?"
    return [(YELLOW, text)] if rose > _NOISE else []


def _shift(figure: Figure) -> list[tuple[str, str]]:
    change = figure.change
    if change is None or figure.before is None:
        return []
    if figure.unit == "HU":
        limits = _CT_SHIFT.get(figure.region)
        return _above(abs(change), limits, f"the mean of {figure.region} moved by {change:+.1f} HU") if limits else []
    if figure.name == "residual over the measured k-space":
        return _above(abs(change), _MR_RESIDUAL, f"the measured k-space changed by {100 * change:.1f} %")
    relative = change / figure.before if figure.before else 0.0
    text = f"{figure.name} of {figure.region} moved by {100 * relative:+.1f} %"
    if figure.name in ("SUVmean", "SUVpeak"):
        return _above(abs(relative), _PET_MEAN, text)
    if figure.name == "total activity":
        return _above(abs(relative), _PET_TOTAL, text)
    if figure.name == "mean" and figure.region != "dark third":  # of which the background is a part
        return _above(abs(relative), _MR_MEAN, text)
    return []


def _above(value: float, limits: tuple[float, float], text: str) -> list[tuple[str, str]]:
    return [(RED if value > limits[1] else YELLOW, text)] if value > limits[0] else []


def _below(figure: Figure, value: float, limits: tuple[float, float], text: str) -> list[tuple[str, str]]:
    if value >= limits[0]:
        return []
    return [(RED if value < limits[1] else YELLOW, f"{text}: {figure.after:.2f} of before")]


def _because(figure: Figure) -> str:
    return figure.not_measured.removeprefix("nothing to measure: ")
