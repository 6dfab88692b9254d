"""An interval for the value that a full scan would have, voxel by voxel: conformal or empirical, over bins.

The score of a voxel is its error over the local noise of the source and the factor of its bin. Bins divide voxels by
the edge strength of the result, the smoothed change and the noise; that of MR, whose unit is arbitrary, in parts of the
image's 99.9th percentile, so that the interval scales with the image. Voxels of one patient are one sample, so every
patient's distribution of scores has the same weight. The quantile of their mean is taken at ``(1 - alpha)(K + 1) / K``
for K patients: the interval then holds at least ``1 - alpha`` of the voxels, on average over patients like those of the
calibration. An empirical interval takes the quantile at ``1 - alpha``: it promises nothing, and is not as wide.

References:
    Lei et al., Distribution-free predictive inference for regression, https://arxiv.org/abs/1604.04173
    Dunn et al., Distribution-free prediction sets for two-layer hierarchical models, https://arxiv.org/abs/1809.07441
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from medrestore_monai.audit.calibrated import damage_named, read_modalities, write_modality
from medrestore_monai.audit.faithfulness import noise_map
from medrestore_monai.audit.figures import Figure
from medrestore_monai.audit.noise import Noise
from medrestore_monai.audit.regions import body_mask, smoothed
from medrestore_monai.audit.volume import Volume
from medrestore_monai.bundles import Bundle
from medrestore_monai.intensity import MR_PERCENTILE

FILE = "interval.json"
VERSION = 2
_STEP, _BINS = 0.02, 1000  # of the histograms of errors over noise; larger ones count in the last bin
_LEAST_VOXELS = 100  # of a patient in a bin
_EDGE, _CHANGE = 1.0, 2.5  # px, standard deviations of the Gaussians
_QUANTILES = {"edge": (0.5, 0.8, 0.95), "change": (0.5, 0.9), "noise": (1 / 3, 2 / 3)}
_OF_INPUT = ("hu_offset", "suv", "slice_axis", "bundle")  # what is said of an image, or names the bundle
_BY = "over bins of edge, smoothed change and noise"
_METHODS = {"conformal": f"split conformal prediction {_BY}", "empirical": f"quantiles of errors {_BY}"}


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a calibration leaves in a bundle, for one modality.

    Args:
        level: part of the voxels that the interval holds.
        patients: that it was calibrated on.
        label: what the interval is for, in words.
        images: that it holds for, in words.
        edges: limits of the bins, by ``edge``, ``change`` and ``noise``.
        factors: half-width over noise, by bin.
        weights_sha256: that it was calibrated for.
        settings: of the restoration, likewise.
        coverage: measured on other patients, for the card.
        promise: whether it is to hold at least ``level`` on average over patients; else about as much.
    """

    level: float
    patients: int
    label: str
    images: str
    edges: Mapping[str, Sequence[float]]
    factors: np.ndarray
    weights_sha256: str
    settings: Mapping[str, Any]
    coverage: Mapping[str, Any] = field(default_factory=dict)
    promise: bool = True

    @property
    def kind(self) -> str:
        """``conformal``, or ``empirical`` where nothing is promised or the patients are too few for the level."""
        return "conformal" if self.promise and _promised(self.level, self.patients) is not None else "empirical"

    def as_dict(self) -> dict[str, Any]:
        """Return the calibration as JSON values."""
        return {**vars(self), "factors": np.round(self.factors, 3).tolist()}

    def why_void(self, weights_sha256: str, settings: Mapping[str, Any] | None) -> str:
        """Say why it does not hold for a result; empty if it does.

        Args:
            weights_sha256: of the weights that made it.
            settings: of :func:`settings_of_result`; ``None`` if they are unknown.
        """
        if weights_sha256 != self.weights_sha256:
            return "it was calibrated for other weights"
        if settings is None:
            return "the settings of this result are unknown; a report that is made with the restoration has them"
        names = sorted({*settings, *self.settings})
        other = [name for name in names if settings.get(name) != self.settings.get(name)]
        differing = [f"{name} {self.settings.get(name)} and not {settings.get(name)}" for name in other]
        return f"it was calibrated for {', '.join(differing)}" if differing else ""


@dataclass(frozen=True, eq=False)
class Interval:
    """The interval of one result.

    Args:
        figures: its half-width; or why there is no interval.
        calibration: that it follows; ``None`` without one.
        half_width: in the unit of the image, shape ``(X, Y, Z)``; 0 outside of the body, where there is no interval.
    """

    figures: list[Figure]
    calibration: Calibration | None = None
    half_width: np.ndarray | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the interval as JSON values."""
        if self.half_width is None or self.calibration is None:
            return {"not_measured": self.figures[0].not_measured}
        one = self.calibration
        about = {"level": one.level, "kind": one.kind, "patients": one.patients, "for": one.label, "images": one.images}
        return {**about, "figures": [figure.as_dict() for figure in self.figures]}


def measure_interval(
    source: Volume, restored: Volume, noise: Noise, calibration: Calibration | None, void: str = ""
) -> Interval:
    """Return the interval of each voxel of the body.

    Args:
        source: the input.
        restored: the output, on the same grid.
        noise: of the two.
        calibration: of the bundle; ``None`` if it has none.
        void: why it does not hold for this result.
    """
    reason = "the bundle has no calibration of intervals" if calibration is None else void
    found = None if reason else features(source, restored, noise)
    if not reason and found is None:
        reason = "the noise of the source could not be measured"
    if calibration is None or found is None:
        method = _METHODS["conformal" if calibration is None else calibration.kind]
        return Interval([Figure("half-width", "body", source.unit, method, not_measured=f"no interval: {reason}")])
    scale, values, inside = found
    half = np.where(inside, calibration.factors[_bins(values, calibration.edges)] * scale, 0).astype(np.float32)
    body = half[inside]
    name, method = f"half-width of the {100 * calibration.level:.0f} % interval", _METHODS[calibration.kind]
    figures = [
        Figure(
            f"{name}, {word}", "body", source.unit, method, None, float(np.quantile(body, part)), body.size, "voxels"
        )
        for word, part in (("median", 0.5), ("95th percentile", 0.95))
        if body.size
    ]
    return Interval(figures, calibration, half)


def features(
    source: Volume, restored: Volume, noise: Noise
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray] | None:
    """Return the local noise, what voxels are put into bins by, and the mask of the body; ``None`` without noise."""
    spectrum = noise.spectra.get("before")
    if spectrum is None or not spectrum.area > 0:
        return None
    scale = noise_map(source, noise, spectrum)
    inside = body_mask(smoothed(source.array, source.pixel), source.modality)
    smooth = gaussian_filter(restored.array, (_EDGE, _EDGE, 0))
    slope = np.gradient(smooth, axis=(0, 1)) if min(smooth.shape[:2]) > 1 else (np.zeros_like(smooth),) * 2
    change = gaussian_filter(restored.array - source.array, (_CHANGE, _CHANGE, 0))
    values = {
        "edge": np.hypot(*slope) / scale,
        "change": np.abs(change) / scale,
        "noise": scale / _unit_of_bins(source),
    }
    return scale, values, inside


def _unit_of_bins(source: Volume) -> float:
    """Return the unit of noise in the bins: 1 SUV of PET, the 99.9th percentile of MR, else that of the image."""
    if source.modality == "MR":
        upper = float(np.percentile(source.array, MR_PERCENTILE))
        return upper if upper > 0 else 1.0
    return 1 / source.suv_factor if source.modality == "PT" and source.suv_factor else 1.0


def _bins(values: Mapping[str, np.ndarray], edges: Mapping[str, Sequence[float]]) -> tuple[np.ndarray, ...]:
    return tuple(np.searchsorted(edges[name], values[name]) for name in _QUANTILES)


@dataclass(frozen=True, eq=False)
class Errors:
    """The errors of one patient: over the noise, with what puts their voxels into bins; all of shape ``(n,)``."""

    error: np.ndarray
    values: Mapping[str, np.ndarray]


def errors_of(source: Volume, restored: Volume, label: Volume, noise: Noise) -> Errors | None:
    """Return the errors of a restoration against its label, in the body; ``None`` where noise cannot be measured."""
    found = features(source, restored, noise)
    if found is None:
        return None
    scale, values, inside = found
    error = np.abs(restored.array - label.array)[inside] / scale[inside]
    return Errors(error, {name: one[inside] for name, one in values.items()})


def calibrate(
    patients: Sequence[Errors],
    label: str,
    weights_sha256: str,
    settings: Mapping[str, Any],
    level: float = 0.9,
    images: str = "images like those of the calibration",
    promise: bool = True,
) -> Calibration:
    """Calibrate the intervals on patients that no one trained on.

    Args:
        patients: errors of each.
        label: what the labels are, in words.
        weights_sha256: of the weights.
        settings: of the restoration.
        level: part of the voxels to hold.
        images: of the patients, in words: those that the interval holds for.
        promise: hold at least ``level`` on average over patients like these, given ``level / (1 - level)`` of them or
            more (nine for 90 %) whom no one chose on either; else about ``level`` of the voxels of these.

    Raises:
        ValueError: there are fewer than two patients, or the level is not in (0, 1).
    """
    if len(patients) < 2 or not 0 < level < 1:
        raise ValueError(f"give two patients or more and a level in (0, 1), got {len(patients)} and {level}.")
    edges = {
        name: [float(np.mean([np.quantile(one.values[name], part) for one in patients])) for part in parts]
        for name, parts in _QUANTILES.items()
    }
    counts = np.stack([_histograms(one, edges) for one in patients])  # (K, edge, change, noise, error)
    factors = np.zeros(counts.shape[1:4])
    for place in np.ndindex(factors.shape):
        factors[place] = _quantile(_pooled(counts, place), level)
    scores = np.stack([_score_histogram(one, edges, factors) for one in patients])
    count = len(patients)
    wanted = _promised(level, count) if promise else None
    scale = _quantile(scores, level if wanted is None else wanted)
    made_with = dict(settings)
    return Calibration(level, count, label, images, edges, factors * scale, weights_sha256, made_with, {}, promise)


def coverage_of(one: Errors, calibration: Calibration) -> float:
    """Return which part of a patient's voxels the interval holds."""
    return float((one.error <= calibration.factors[_bins(one.values, calibration.edges)]).mean())


def _promised(level: float, patients: int) -> float | None:
    """Return the level of the quantile that promises ``level``; ``None`` if the patients are too few for it."""
    wanted = level * (patients + 1) / patients
    return min(wanted, 1.0) if wanted <= 1 + 1e-12 else None


def _histogram(values: np.ndarray) -> np.ndarray:
    return np.bincount(np.minimum(values / _STEP, _BINS - 1).astype(int), minlength=_BINS)


def _histograms(one: Errors, edges: Mapping[str, Sequence[float]]) -> np.ndarray:
    shape = [len(edges[name]) + 1 for name in _QUANTILES]
    place = np.ravel_multi_index(_bins(one.values, edges), shape)
    error = np.minimum(one.error / _STEP, _BINS - 1).astype(int)
    counts = np.bincount(place * _BINS + error, minlength=int(np.prod(shape)) * _BINS)
    return counts.reshape(*shape, _BINS)


def _score_histogram(one: Errors, edges: Mapping[str, Sequence[float]], factors: np.ndarray) -> np.ndarray:
    return _histogram(one.error / np.maximum(factors[_bins(one.values, edges)], 1e-9))


def _pooled(counts: np.ndarray, place: tuple[int, ...]) -> np.ndarray:
    """Return the histograms of a bin, shape ``(n, bins)``; of wider bins where half of the patients lack voxels."""
    edge, change, noise = place
    wider = (
        counts[:, edge, change, noise],
        counts[:, edge, change].sum(axis=1),
        counts[:, edge].sum(axis=(1, 2)),
        counts.sum(axis=(1, 2, 3)),
    )
    for found in wider:
        enough = found.sum(axis=1) >= _LEAST_VOXELS
        if 2 * enough.sum() > len(counts):
            return np.asarray(found[enough])
    return np.asarray(wider[-1])


def _quantile(histograms: np.ndarray, level: float) -> float:
    """Return the upper end of the bin where the mean of the patients' distributions reaches a level."""
    parts = histograms / np.maximum(histograms.sum(axis=1, keepdims=True), 1)
    reached = np.nonzero(parts.mean(axis=0).cumsum() >= level - 1e-12)[0]
    return float((reached[0] + 1 if len(reached) else _BINS) * _STEP)


def settings_of_result(
    bundle: Bundle, given: Mapping[str, Any], configuration: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return all settings that a result depends on: those given, and the bundle's own values of the others.

    Args:
        bundle: the bundle.
        given: by name, or as a derived header calls them; what describes an image is left out.
        configuration: the bundle's ``inference.json``, if it was read already.
    """
    config = configuration or json.loads(bundle.config("inference").read_text(encoding="utf-8"))
    recorded = config.get("derivation", {}).get("parameters", {})
    names = {key: value[1:] for key, value in recorded.items() if isinstance(value, str) and value.startswith("@")}
    return {
        name: given.get(name, given.get(key, config.get(name))) for key, name in names.items() if name not in _OF_INPUT
    }


def read_calibration(bundle: Bundle, modality: str) -> Calibration | None:
    """Return the calibration of a bundle for a modality, if it has one.

    Raises:
        DataError: the file is damaged.
    """
    path = bundle.root / "docs" / FILE
    if not path.is_file():
        return None
    with damage_named(path):
        found = read_modalities(path, VERSION).get(modality)
        return None if found is None else Calibration(**{**found, "factors": np.array(found["factors"], dtype=float)})


def write_calibration(path: Path, modality: str, calibration: Calibration) -> None:
    """Write a calibration; other modalities in the file stay.

    Raises:
        DataError: the file is damaged, or of another version.
    """
    write_modality(path, VERSION, modality, calibration.as_dict())
