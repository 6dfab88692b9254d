"""Is an image like those that a bundle was trained on? Compared with the block ``trained_on`` of its metadata.

Every property has a distance: 0 within what the training covered, 1 at a margin beyond it, and so on. The score of an
image is the largest distance. It is "out" above a limit that at most 5 % of people like the training's exceed: the
block holds the scores of such people, each compared with the ranges of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import logit

from medrestore_monai.audit.volume import Volume, chosen_slices
from medrestore_monai.classical import noise_level
from medrestore_monai.files import DataError
from medrestore_monai.intensity import INTENSITY_RANGES, choose_range, scale_to_unit

IN, NEAR, OUT, UNKNOWN = "in", "near the edge", "out", "unknown"
_MARGIN = 0.10  # of a limit, by which a value lies beyond it at a distance of 1
_MARGIN_NOISE = 0.5  # the same of noise, whose limits are percentiles and not extremes
_MARGINS_SCANNER = {"tube voltage": 0.25, "field strength": 0.5}  # 100 beside 120 kV, or 1 beside 1.5 T, is near
_FARTHEST = 10.0  # largest distance; of another kind, too
UNKNOWN_TRACER = "one that is not well known"  # a header named some text that is not that of a tracer
_ALARMS = 0.05  # of people like the training's that may be out
# distance of the histograms, in parts of the intensity range, where the distance begins and where it is 1
_DISTANCE = {"CT": (0.06, 0.12), "PT": (0.1, 0.2), "MR": (0.2, 0.35), "RGB": (0.3, 0.5), "GRAY": (0.3, 0.5)}
_BACKGROUND = {"CT": 0.1, "PT": 0.02, "MR": 0.05}  # scaled values below are no tissue
_LEAST_AIR = 0.01  # of a CT
_TOP, _DARK, _BORDER = 99.9, 0.02, 3  # percentile, part of it, and pixels, for images without a unit
_MARGIN_BACKGROUND = 1.0  # of the logarithm of the odds
_MOST_NEGATIVE = 0.05  # of an MR image; sharpened ones have 2 %
_MARGIN_BORDER, _LEAST_BORDER = 0.5, 0.01  # of the limit, and the least limit
_KERNEL_SLICES, _LEAST_SIDE = 3, 32


@dataclass(frozen=True)
class Feature:
    """One property of an image beside what the training covered.

    Args:
        name: such as "pixel size".
        value: of the image, as a text with its unit.
        trained: what the training covered, as a text.
        state: "in", "near the edge", "out" or "unknown".
        distance: how far beyond what the training covered, in margins; 0 within, at most 10.
    """

    name: str
    value: str
    trained: str
    state: str
    distance: float = 0.0


@dataclass(frozen=True)
class Scope:
    """How an image lies to the training data.

    Args:
        state: the worst state of all features; "unknown" where nothing could be compared.
        features: one by one.
        limit: of the score, above which an image is out.
        people: scores of people like the training's that the limit comes from; empty where none are known.
    """

    state: str
    features: Sequence[Feature]
    limit: float = 1.0
    people: Sequence[float] = ()

    @property
    def score(self) -> float | None:
        """The largest distance of all features; ``None`` where nothing could be compared."""
        return None if self.state == UNKNOWN else max((one.distance for one in self.features), default=0.0)

    @property
    def p(self) -> float | None:
        """How rare a score as large is among people like the training's, ``(1 + at least as large) / (1 + people)``."""
        if self.score is None or not self.people:
            return None
        return (1 + sum(one >= self.score for one in self.people)) / (1 + len(self.people))

    @property
    def reasons(self) -> list[str]:
        """One sentence for each feature that is not "in" nor "unknown"."""
        return [
            f"{one.name} {one.value} is {'near the edge of' if one.state == NEAR else 'outside'} the training's "
            f"{one.trained}"
            for one in self.features
            if one.state in (NEAR, OUT)
        ]

    @property
    def line(self) -> str:
        """The scope in one line, for notes."""
        reasons = f": {'; '.join(self.reasons)}" if self.reasons else ""
        unknown = [one.name for one in self.features if one.state == UNKNOWN]
        more = f" (not compared: {', '.join(unknown)})" if unknown else ""
        score = f", score {self.score:.3g} of at most {self.limit:.3g}" if self.score else ""
        return f"Scope of the training: {self.state}{score}{reasons}{more}."

    def as_dict(self) -> dict[str, Any]:
        """Return the scope as JSON values."""
        score = None if self.score is None else round(self.score, 3)
        p = None if self.p is None else round(self.p, 4)
        about = {"state": self.state, "score": score, "limit": self.limit, "p": p, "people": len(self.people)}
        return {**about, "features": [{**vars(one), "distance": round(one.distance, 3)} for one in self.features]}


def measure_scope(source: Volume, trained_on: Mapping[str, Any], neighbors: bool = False) -> Scope:
    """Compare an image with what a bundle was trained on.

    Args:
        source: the input of the bundle.
        trained_on: the block of that name in the bundle's ``metadata.json``; empty where it has none.
        neighbors: whether the network sees neighboring slices; else their distance does not matter.

    Returns:
        "out" where a feature is of another kind, or lies further beyond its range than 95 % of people like the
        training's, and at least by a margin: 10 % of the range's end, of the tube voltage 25 %, of noise, border and
        field strength 50 %, of the background's odds a factor e. "Near the edge" where one lies less far beyond it.
        What a header tells of the scanner is compared with what is known of the training's scanners; "unknown" where
        the bundle states nothing of it.

    Raises:
        DataError: a score of the people like the training's is not finite, or the limits of background or border
            are not two numbers from 0 to 1, in order.
    """
    modalities = trained_on.get("modalities", {})
    if not modalities:
        return Scope(UNKNOWN, [Feature("training data", source.modality, "not stated by the bundle", UNKNOWN)])
    known = ", ".join(modalities)
    block = modalities.get(source.modality)
    if block is None:
        return Scope(OUT, [Feature("modality", source.modality, known, OUT, _FARTHEST)])
    people = tuple(float(one) for one in block.get("scope_scores", ()))
    if not all(np.isfinite(people)):
        raise DataError(f"the scope_scores of {source.modality} in the bundle's metadata must be finite numbers.")
    limit = limit_of(people)
    features = [Feature("modality", source.modality, known, IN), _unit(source, block)]
    features.append(_range("pixel size", source.pixel, block.get("pixel_mm"), source.length))
    if neighbors and source.slices > 1:
        features.append(_range("slice distance", source.spacing[2:], block.get("distance_mm"), source.length))
    features += _intensities(source, block)
    if source.modality == "CT":
        features.append(_kernel(source, block))
    features += _scanner(source, block)
    features = [_judged(one, limit) for one in features]
    return Scope(_worst(features), features, limit, people)


def limit_of(scores: Sequence[float]) -> float:
    """Return the score that one more person like these exceeds with a chance of at most 5 %; at least 1.

    Args:
        scores: of people like the training's. Fewer than 19 cannot show 5 %: then the largest is the limit.
    """
    beyond = max(int(_ALARMS * (len(scores) + 1)), 1)  # the rank of the limit, from above
    return max(1.0, sorted(scores, reverse=True)[beyond - 1]) if scores else 1.0


def _judged(feature: Feature, limit: float) -> Feature:
    if feature.state == UNKNOWN:
        return feature
    state = IN if not feature.distance else NEAR if feature.distance <= limit else OUT
    return replace(feature, state=OUT if feature.distance >= _FARTHEST else state)


def _worst(features: Sequence[Feature]) -> str:
    states = [one.state for one in features]
    return next((state for state in (OUT, NEAR) if state in states), IN)


def _unit(source: Volume, block: Mapping[str, Any]) -> Feature:
    trained = str(block.get("unit", INTENSITY_RANGES[source.modality].unit))
    to_suv = source.modality == "PT" and trained == "SUV" and source.unit != "SUV"
    if to_suv and source.suv_factor is None:
        return Feature("unit", f"{source.unit}, without SUV", trained, OUT, _FARTHEST)
    alike = to_suv or source.modality not in ("CT", "PT") or source.unit == trained
    return Feature("unit", source.unit, trained, IN, 0.0 if alike else _FARTHEST)


def _range(name: str, values: Sequence[float], limits: Any, unit: str, margin: float = _MARGIN) -> Feature:
    """Compare the value that lies furthest out with two limits."""
    if not limits:
        return Feature(name, f"{values[0]:.3g} {unit}".strip(), "not stated by the bundle", UNKNOWN)
    low, high = (float(limit) for limit in limits)
    beyond = [max(low / value if value > 0 else np.inf, value / high if high > 0 else np.inf) for value in values]
    worst = int(np.argmax(beyond))
    # the limits of the metadata are rounded to three digits
    distance = 0.0 if beyond[worst] <= 1.001 else min((beyond[worst] - 1) / margin, _FARTHEST)
    value = f"{values[worst]:.3g} {unit}".strip()
    trained = f"{low:g} to {high:g} {unit}".strip() if low < high else f"{low:g} {unit}".strip()
    return Feature(name, value, trained, IN, distance)


def _intensities(source: Volume, block: Mapping[str, Any]) -> list[Feature]:
    chosen = source.array[..., chosen_slices(source.slices)]
    unit = source.unit if source.modality in ("CT", "PT") else None
    try:
        dtype = source.about.get("dtype")
        scaled = scale_to_unit(chosen, choose_range(source.array, source.modality, dtype, unit, source.suv_factor))
    except ValueError as error:
        return [Feature("intensities", str(error), INTENSITY_RANGES[source.modality].unit, OUT, _FARTHEST)]
    level = noise_level(scaled[None])
    found = [_range("noise level", [level], block.get("noise_level"), "of the range", _MARGIN_NOISE)]
    found += _appearance(chosen, block.get("appearance"))
    if source.modality == "MR":
        found.append(_negative(chosen))
    histogram = block.get("intensity_histogram")
    if not histogram:
        return [*found, Feature("histogram", "measured", "not stated by the bundle", UNKNOWN)]
    distance = _histogram_distance(scaled, histogram, _BACKGROUND.get(source.modality, 0.0))
    near, out = _DISTANCE[source.modality]
    beyond = min(max((distance - near) / (out - near), 0.0), _FARTHEST)
    value = f"{distance:.3f} of the range away"
    found.append(Feature("histogram", value, f"distance up to {near:g}", IN, beyond))
    return [*found, _air(scaled, histogram)] if source.modality == "CT" else found


def look_of(slices: np.ndarray) -> dict[str, float]:
    """Describe an image whose unit is arbitrary, by what no factor changes.

    Args:
        slices: ``(X, Y, Z)``, in any unit with zero where there is no signal.

    Returns:
        In parts of the 99.9th percentile: ``background``, the part of the pixels below 2 % of it, and ``border``, the
        mean of the outermost three pixels of each side. 1 and 0 where there is no signal.
    """
    top = float(np.percentile(slices, _TOP))
    if top <= 0:
        return {"background": 1.0, "border": 0.0}
    inside = slices[_BORDER:-_BORDER, _BORDER:-_BORDER]
    outermost = (slices.sum(dtype=float) - inside.sum(dtype=float)) / max(slices.size - inside.size, 1)
    return {"background": float((slices < _DARK * top).mean()), "border": float(outermost) / top}


def _appearance(slices: np.ndarray, stated: Any) -> list[Feature]:
    """Compare background and border with the ranges that a bundle for arbitrary units states."""
    if not stated:
        return []
    look, found = look_of(slices), []
    if "background" in stated:
        low, high = _limits("background", stated)
        odds = logit(np.clip([low, look["background"], high], 1e-4, 1 - 1e-4))
        beyond = float(max(odds[0] - odds[1], odds[1] - odds[2])) / _MARGIN_BACKGROUND
        value, trained = f"{100 * look['background']:.3g} % of the image", f"{100 * low:.3g} to {100 * high:.3g} %"
        found.append(Feature("background", value, trained, IN, _distance(beyond)))
    if "border" in stated:
        _, high = _limits("border", stated)  # only a bright border counts
        beyond = (look["border"] / max(high, _LEAST_BORDER) - 1) / _MARGIN_BORDER
        value, trained = f"{look['border']:.3g} of the brightest", f"up to {high:.3g} of the brightest"
        found.append(Feature("border", value, trained, IN, _distance(beyond)))
    return found


def _negative(slices: np.ndarray) -> Feature:
    """Magnitudes are not negative, but for what a filter overshoots: CT in HU, a phase or a difference."""
    share = float((slices < -_DARK * np.percentile(slices, _TOP)).mean())
    value, needed = f"{100 * share:.3g} % of the image", f"{100 * _MOST_NEGATIVE:g} % at most"
    return Feature("negative values", value, needed, IN, _FARTHEST if share > _MOST_NEGATIVE else 0.0)


def _limits(name: str, stated: Mapping[str, Any]) -> tuple[float, float]:
    limits = stated[name]
    numbers = isinstance(limits, list) and all(type(one) in (int, float) for one in limits)
    if not numbers or len(limits) != 2 or not 0 <= limits[0] <= limits[1] <= 1:
        raise DataError(f"{name} in the appearance of the bundle's metadata must be two numbers from 0 to 1, in order.")
    return float(limits[0]), float(limits[1])


def _distance(beyond: float) -> float:
    """Return a distance, 0 within the rounding of the stated limits."""
    return min(beyond, _FARTHEST) if beyond > 0.01 else 0.0


def _air(scaled: np.ndarray, histogram: Mapping[str, Any]) -> Feature:
    """An image without air is no CT in HU: stored values, inverted ones, or an excerpt."""
    edges, fraction = np.asarray(histogram["edges"]), np.asarray(histogram["fraction"])
    here = float((scaled < _BACKGROUND["CT"]).mean())
    there = float(fraction[edges[:-1] < _BACKGROUND["CT"]].sum())
    lacks = here < _LEAST_AIR < 10 * _LEAST_AIR < there
    value, trained = f"{100 * here:.1f} % of the image", f"{100 * there:.0f} %"
    return Feature("air and lung", value, trained, IN, _FARTHEST if lacks else 0.0)


def _scanner(source: Volume, block: Mapping[str, Any]) -> list[Feature]:
    """Compare what a header tells of tube voltage, field strength and tracer."""
    found = []
    for name, key, unit in (("tube voltage", "tube_voltage_kv", "kV"), ("field strength", "field_strength_t", "T")):
        if name in source.about:
            value = float(str(source.about[name]).removesuffix(unit))
            found.append(_range(name, [value], block.get(key), unit, _MARGINS_SCANNER[name]))
    if "tracer" in source.about:
        tracer, trained = str(source.about["tracer"]), [str(one) for one in block.get("tracers", ())]
        known = ", ".join(trained) or "not stated by the bundle"
        compared = bool(trained) and tracer != UNKNOWN_TRACER
        distance = _FARTHEST if compared and tracer.casefold() not in map(str.casefold, trained) else 0.0
        found.append(Feature("tracer", tracer, known, IN if compared else UNKNOWN, distance))
    return found


def _histogram_distance(scaled: np.ndarray, histogram: Mapping[str, Any], background: float) -> float:
    """Mean distance that the values of tissue would have to move to have the training's histogram (Wasserstein)."""
    edges, fraction = (np.asarray(histogram[name], dtype=np.float64) for name in ("edges", "fraction"))
    first = int(np.searchsorted(edges, background))
    edges, fraction = edges[first:], fraction[first:]
    counted = np.histogram(np.clip(scaled, None, edges[-1]), edges)[0].astype(np.float64)
    if not counted.sum() or not fraction.sum():
        return float(edges[-1] - edges[0])
    gap = np.abs(np.cumsum(counted / counted.sum() - fraction / fraction.sum()))
    return float((gap * np.diff(edges)).sum())


def _kernel(source: Volume, block: Mapping[str, Any]) -> Feature:
    import torch

    from medrestore_monai.transforms.ct.noise_measure import typical_noise

    name, unit = "kernel cutoff", "1/mm"
    ranges = [
        limits
        for limits in (block.get("kernel_cutoff_per_mm"), block.get("degradations", {}).get("kernel_cutoff_per_mm"))
        if limits
    ]
    limits = [min(low for low, _ in ranges), max(high for _, high in ranges)] if ranges else None
    chosen = chosen_slices(source.slices, _KERNEL_SLICES if min(source.array.shape[:2]) >= _LEAST_SIDE else 0)
    noise = typical_noise(
        [torch.from_numpy(source.array[None, ..., index].copy()) for index in chosen], source.pixel[0]
    )
    if noise is None:
        trained = f"{limits[0]:g} to {limits[1]:g} {unit}" if limits else "not stated by the bundle"
        return Feature(name, "too little flat soft tissue", trained, UNKNOWN)
    return _range(name, [noise.cutoff], limits, unit)
