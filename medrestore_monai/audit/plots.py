"""Curves as SVG within a page, with axes and a legend; no library draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 30, 44
_DASHES = ("", "6 3", "2 3", "9 3 2 3")  # beside color, for those who do not see it
_TICKS = 5
_COLUMN = '<path class="grid" d="M{} {}V{}"/><text x="{}" y="{}" class="middle">{}</text>'
_ROW = '<path class="grid" d="M{} {}H{}"/><text x="{}" y="{}" class="end">{}</text>'
_CURVE = (
    '<polyline class="curve{0}" stroke-dasharray="{1}" points="{2}"/>'
    '<path class="curve{0}" stroke-dasharray="{1}" d="M{3} 16h26"/><text x="{4}" y="20">{5}</text>'
)
_LABELS = (
    '<text x="{}" y="{}" class="middle">{}</text>'
    '<text class="middle" transform="translate(14 {}) rotate(-90)">{}</text></svg>'
)


@dataclass(frozen=True, eq=False)
class Curve:
    """One line of a plot.

    Args:
        name: in the legend.
        x: shape ``(n,)``.
        y: of the same shape.
    """

    name: str
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Plot:
    """A plot and its values.

    Args:
        title: above it.
        x_label: with its unit.
        y_label: with its unit.
        curves: at most four.
    """

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]

    def svg(self) -> Markup:
        """Draw the plot."""
        x, y = (np.concatenate([getattr(one, axis) for one in self.curves]) for axis in "xy")
        scales = (ticks(0.0, float(x.max())), ticks(min(0.0, float(y.min())), float(y.max())))
        parts = [Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, self.title)]
        parts += _grid(*scales)
        for number, one in enumerate(self.curves):
            points = " ".join("{},{}".format(*_place(*pair, *scales)) for pair in zip(one.x, one.y, strict=True))
            left, dash = _LEFT + 12 + number * 190, _DASHES[number % len(_DASHES)]
            parts.append(Markup(_CURVE).format(number, dash, points, left, left + 32, one.name))
        middles = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
        parts.append(Markup(_LABELS).format(middles[0], _HEIGHT - 8, self.x_label, middles[1], self.y_label))
        return Markup("").join(parts)

    def rows(self, most: int = 40) -> list[list[str]]:
        """Return the values as rows of a table: the curve's name, x and y."""
        rows = []
        for one in self.curves:
            for index in np.unique(np.linspace(0, len(one.x) - 1, min(most, len(one.x))).round().astype(int)):
                rows.append([str(escape(one.name)), f"{one.x[index]:.4g}", f"{one.y[index]:.4g}"])
        return rows


def _place(x: float, y: float, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> tuple[float, float]:
    """Return where a point lies in the drawing."""
    right = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (_WIDTH - _LEFT - _RIGHT)
    up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (_HEIGHT - _TOP - _BOTTOM)
    return round(float(_LEFT + right), 1), round(float(_HEIGHT - _BOTTOM - up), 1)


def _grid(x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[Markup]:
    parts = []
    for value in x_ticks:
        x, y = _place(value, y_ticks[0], x_ticks, y_ticks)
        parts.append(Markup(_COLUMN).format(x, y, _TOP, x, y + 16, f"{value:.4g}"))
    for value in y_ticks:
        x, y = _place(x_ticks[0], value, x_ticks, y_ticks)
        parts.append(Markup(_ROW).format(x, y, _WIDTH - _RIGHT, x - 6, y + 4, f"{value:.4g}"))
    return parts


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers from at most ``low`` to at least ``high``."""
    span = high - low if high > low else 1.0
    rough = span / _TICKS
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = np.floor(low / step + 1e-9), np.ceil((low + span) / step - 1e-9)
    return [float(number * step) for number in np.arange(first, last + 1)]
