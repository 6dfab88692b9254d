"""Transfer function at edges of a CT that are found in the image, before and after the restoration.

Its standard deviation is about ``3.8 / (CNR sqrt(L))`` of the 50 % frequency, for an edge of the contrast-to-noise
ratio CNR over L mm; below ``CNR sqrt(L) = 38`` nothing is reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import curve_fit
from scipy.signal.windows import tukey
from scipy.special import erf

from medrestore_monai.audit.edges import REACH, Edge, find_edge
from medrestore_monai.audit.figures import Figure
from medrestore_monai.audit.volume import Volume, chosen_slices

LEAST_STRENGTH = 38.0  # CNR sqrt(mm), for a standard deviation of 10 %
_LEAST_LENGTH = 50.0  # mm: few pieces may share one flaw, whatever their contrast
_ERROR = 3.8
_OVERSAMPLING = 10  # bins of a pixel
_FLAT, _END = 4.0, 6.0  # standard deviations of the edge at which the window ends to be 1, and reaches 0
_NOISE_FROM = 3.5  # mm from the edge
# HU: the contour, and what the dark and the bright side may be
_KINDS = {
    "skin to air": (-500.0, (-1100.0, -950.0), (-200.0, 200.0)),
    "fat to muscle": (-30.0, (-150.0, -50.0), (0.0, 130.0)),
    "soft tissue to bone": (160.0, (-20.0, 130.0), (190.0, 2000.0)),
}
_METHOD = "edge spread function over the distance to the contour, derivative, Tukey window, Fourier transform"


@dataclass(frozen=True, eq=False)
class Transfer:
    """The transfer function across one edge.

    Args:
        frequency: in 1/mm.
        gain: there, 1 at frequency 0.
        contrast: of the edge, in the unit of the image.
        strength: contrast over noise, times the square root of the length in mm.
        width: standard deviation of the edge in mm, from an error function.
    """

    frequency: np.ndarray
    gain: np.ndarray
    contrast: float
    strength: float
    width: float

    def at(self, level: float) -> float | None:
        """Return the first frequency where the gain falls to ``level``; ``None`` if it does not."""
        below = np.nonzero(self.gain < level)[0]
        if not len(below) or below[0] == 0:
            return None
        last = int(below[0])
        high, low = self.gain[last - 1], self.gain[last]
        part = (high - level) / (high - low)
        return float(self.frequency[last - 1] + part * (self.frequency[last] - self.frequency[last - 1]))


@dataclass(frozen=True, eq=False)
class Sharpness:
    """What was measured at edges.

    Args:
        figures: the frequencies of 50 and 10 % of each edge that is strong enough.
        curves: by edge, the transfer functions before and after.
    """

    figures: list[Figure]
    curves: dict[str, tuple[Transfer, Transfer]] = field(default_factory=dict)


def measure_sharpness(source: Volume, restored: Volume) -> Sharpness:
    """Measure the transfer function at the same edges of both images; CT only.

    Args:
        source: the input; its edges are looked for in up to 12 slices.
        restored: the output, on the same grid.
    """
    if source.modality != "CT":
        reason = "edges are looked for in CT alone; see the signal gain"
        return Sharpness([_nothing("edges", source, reason)])
    chosen = chosen_slices(source.slices, 12)
    before, after = (image.array[..., chosen] for image in (source, restored))
    figures: list[Figure] = []
    curves = {}
    for name, (level, dark, bright) in _KINDS.items():
        edge = find_edge(before, source.pixel, level, dark, bright)
        pair = None if edge is None else [edge_transfer(edge, slices, source.pixel) for slices in (before, after)]
        if edge is None or pair is None or pair[0] is None or pair[1] is None:
            figures.append(_nothing(name, source, "no such edge with flat sides"))
        elif edge.length < _LEAST_LENGTH:
            figures.append(_nothing(name, source, f"{edge.length:g} mm of edge; {_LEAST_LENGTH:g} are needed"))
        elif pair[0].strength < LEAST_STRENGTH:
            reason = f"contrast over noise times root of length is {pair[0].strength:.0f}; {LEAST_STRENGTH:g} is needed"
            figures.append(_nothing(name, source, reason))
        else:
            curves[name] = (pair[0], pair[1])
            figures += _figures(name, source, edge, pair[0], pair[1])
    return Sharpness(figures, curves)


def edge_transfer(edge: Edge, slices: np.ndarray, pixel: tuple[float, float]) -> Transfer | None:
    """Measure the transfer function across an edge.

    Args:
        edge: its pixels, with their distances.
        slices: the image, shape ``(X, Y, Z)``.
        pixel: size in mm.

    Returns:
        ``None`` where the image shows no edge there, or one too wide for the reach of 7 mm.
    """
    values = edge.values(slices)
    step = min(pixel) / _OVERSAMPLING
    fit = _fit(edge.distance, values)
    if fit is None or _FLAT * fit[2] > REACH - step:
        return None
    contrast, middle, width = fit
    bins = np.rint((edge.distance - middle) / step).astype(int)
    half = int((REACH - abs(middle)) / step) - 1
    inside = np.abs(bins) <= half
    count = np.bincount(bins[inside] + half, minlength=2 * half + 1)
    sums = np.bincount(bins[inside] + half, values[inside], minlength=2 * half + 1)
    filled = count > 0
    spread = np.interp(np.arange(2 * half + 1), np.nonzero(filled)[0], sums[filled] / count[filled])
    line = np.diff(spread)
    centers = (np.arange(len(line)) - half + 0.5) * step
    line *= _window(centers, width)
    frequency = np.linspace(0, 0.5 / min(pixel), 201)
    waves = np.exp(-2j * np.pi * frequency[:, None] * centers)
    gain = np.abs(waves @ line) / max(abs(float(line.sum())), 1e-9)
    gain /= np.sinc(frequency * step) ** 2  # bins and differences
    return Transfer(frequency, gain, contrast, contrast / _noise(edge, values) * np.sqrt(edge.length), width)


def _fit(distance: np.ndarray, values: np.ndarray) -> tuple[float, float, float] | None:
    """Fit an error function: contrast, middle in mm, standard deviation in mm."""

    def model(x: np.ndarray, low: float, contrast: float, middle: float, width: float) -> np.ndarray:
        edge: np.ndarray = low + contrast * (0.5 + 0.5 * erf((x - middle) / (np.sqrt(2) * width)))
        return edge

    low, high = (float(np.median(values[side])) for side in (distance < -_NOISE_FROM, distance > _NOISE_FROM))
    if not high > low:
        return None
    bounds = ([-np.inf, 0.0, -2.0, 0.05], [np.inf, np.inf, 2.0, REACH])
    try:
        fitted, _ = curve_fit(model, distance, values, (low, high - low, 0.0, 0.8), bounds=bounds)
    except RuntimeError:  # no fit
        return None
    return float(fitted[1]), float(fitted[2]), float(fitted[3])


def _window(centers: np.ndarray, width: float) -> np.ndarray:
    end = min(_END * width, float(np.abs(centers).max()))
    fine = tukey(2001, 1 - min(_FLAT * width / end, 1.0))
    window: np.ndarray = np.interp(centers, np.linspace(-end, end, 2001), fine, left=0, right=0)
    return window


def _noise(edge: Edge, values: np.ndarray) -> float:
    """Standard deviation beside the edge, within the pieces of the contour."""
    side = np.where(edge.distance > 0, 1, 0)
    group = np.unique(2 * edge.segment + side, return_inverse=True)[1]
    plateau = np.abs(edge.distance) > _NOISE_FROM
    count = np.bincount(group[plateau])
    mean = np.bincount(group[plateau], values[plateau]) / np.maximum(count, 1)
    left = values[plateau] - mean[group[plateau]]
    freedom = max(len(left) - int((count > 0).sum()), 1)
    return max(float(np.sqrt((left**2).sum() / freedom)), 1e-6)


def _figures(name: str, source: Volume, edge: Edge, before: Transfer, after: Transfer) -> list[Figure]:
    region = f"{name}, {before.contrast:.0f} {source.unit}"
    unit = f"1/{source.length}"
    length = round(edge.length)
    errors = _ERROR / before.strength, _ERROR / after.strength
    figures = []
    for level, percent in ((0.5, 50), (0.1, 10)):
        first, second = before.at(level), after.at(level)
        title = f"{percent} % frequency"
        if first is None or second is None:
            figures.append(_nothing(name, source, f"the transfer function does not reach {percent} %", title))
            continue
        ci95 = (second * (1 - 1.96 * errors[1]), second * (1 + 1.96 * errors[1])) if percent == 50 else None
        figures.append(Figure(title, region, unit, _METHOD, first, second, length, "mm of edge", ci95))
        if percent == 50:
            ratio, error = second / first, 1.96 * float(np.hypot(*errors))
            ci95 = (ratio * (1 - error), ratio * (1 + error))
            title = "50 % frequency, after over before"
            figures.append(Figure(title, region, "1", _METHOD, 1.0, ratio, length, "mm of edge", ci95))
    return figures


def _nothing(region: str, source: Volume, reason: str, title: str = "50 % frequency") -> Figure:
    return Figure(title, region, f"1/{source.length}", _METHOD, not_measured=f"nothing to measure: {reason}")
