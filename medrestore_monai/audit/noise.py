"""Noise before and after, in flat regions that are found in the source: magnitude and spectrum."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from medrestore_monai.audit.figures import Figure
from medrestore_monai.audit.regions import TissueClass, body_mask, classes_of, flat_mask, smoothed
from medrestore_monai.audit.spectrum import (
    LEAST,
    LEAST_FOR_CURVE,
    LEAST_FOR_PEAK,
    LEAST_SQUARES,
    Spectrum,
    find_squares,
    gaussian_spectrum,
    spectrum_of_islands,
    spectrum_of_squares,
)
from medrestore_monai.audit.volume import Volume, chosen_slices

_PREFERRED = "soft tissue"
_SQUARES = "2D noise power spectrum of half-overlapping squares of 64 pixels, less a 2nd-order fit"
_ISLANDS = "2D noise power spectrum from the autocorrelation of all flat pixels, less 2nd-order fits"
_LOCAL_MEAN = 6.0  # mm; a narrower mean would follow the noise that it divides
_FITTED = "of values over their local mean; a Gaussian fitted to it, as the mean follows coarse noise"
_DRAWS = 400


@dataclass(frozen=True, eq=False)
class Noise:
    """What was measured of the noise.

    Args:
        figures: magnitude, area, peak and mean frequency.
        curves: by ``before`` and ``after``, frequencies in 1/mm and ring means of the spectrum that the figures are of.
        spectra: the two measured spectra; empty where nothing could be measured.
        slices: numbers of the slices that were used.
        flat: mask of the flat pixels in these slices, shape ``(X, Y, len(slices))``.
        of_source: spectrum that changes of the source are judged by: ``before``, and of PET, whose coarse noise the
            local mean hides in part, the Gaussian that fits it; ``None`` where nothing could be measured.
    """

    figures: list[Figure]
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    spectra: dict[str, Spectrum] = field(default_factory=dict)
    slices: np.ndarray = field(default_factory=lambda: np.arange(0))
    flat: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), dtype=bool))
    of_source: Spectrum | None = None


def measure_noise(source: Volume, restored: Volume) -> Noise:
    """Measure the noise of both images in the same flat regions.

    PET noise grows with the activity, so each image is divided by its own local mean, and the noise has the unit 1. The
    mean follows coarse noise and hides it: the figures are those of the Gaussian spectrum that fits what is left.

    Args:
        source: the input.
        restored: the output, on the same grid.
    """
    chosen = chosen_slices(source.slices)
    smooth = smoothed(source.array[..., chosen], source.pixel)
    found = _flattest(source, smooth)
    if found is None:
        reason = f"no tissue has {LEAST} flat pixels 6 {source.length} from other tissue"
        return Noise([_nothing(name, source, reason) for name in ("noise SD", "mean frequency of noise")])
    region, flat = found
    squares = find_squares(flat)
    spectra = {}
    for name, image in (("before", source), ("after", restored)):
        values = image.array[..., chosen]
        if source.modality == "PT":
            values = values / np.maximum(smoothed(values, source.pixel, _LOCAL_MEAN), 1e-6)
        if len(squares) >= LEAST_SQUARES:
            spectra[name] = spectrum_of_squares(values, squares, source.pixel)
        else:
            spectra[name] = spectrum_of_islands(values, flat, source.pixel)
    fitted = spectra
    if source.modality == "PT":
        fitted = {name: gaussian_spectrum(one, _LOCAL_MEAN) for name, one in spectra.items()}
    figures = _figures(source, region.name, fitted["before"], fitted["after"])
    enough = spectra["before"].pixels >= LEAST_FOR_CURVE
    curves = {name: one.rings() for name, one in fitted.items()} if enough else {}
    of_source = fitted["before"]
    return Noise(figures, curves, spectra, chosen, flat, of_source if of_source.area > 0 else None)


def _flattest(source: Volume, smooth: np.ndarray) -> tuple[TissueClass, np.ndarray] | None:
    """Return soft tissue of CT, or else the class with the most flat pixels."""
    body = body_mask(smooth, source.modality)
    best: tuple[TissueClass, np.ndarray] | None = None
    for one in classes_of(smooth, body, source.modality):
        flat = flat_mask(smooth, one.inside(smooth) & body, source.pixel)
        if int(flat.sum()) < LEAST:
            continue
        if one.name == _PREFERRED:
            return one, flat
        if best is None or flat.sum() > best[1].sum():
            best = one, flat
    return best


def _figures(source: Volume, region: str, before: Spectrum, after: Spectrum) -> list[Figure]:
    unit = "1" if source.modality == "PT" else source.unit
    method = _SQUARES if before.regions else _ISLANDS
    if source.modality == "PT":
        method = f"{method}, {_FITTED}"
    n, counted = (before.regions, "squares") if before.regions else (before.pixels, "pixels")
    figure = partial(Figure, region=f"flat {region}", n=n, counted=counted)
    per_length = f"1/{source.length}"
    deviations = [float(np.sqrt(max(one.area, 0))) for one in (before, after)]
    figures = [
        figure("noise SD", unit=unit, method=method, before=deviations[0], after=deviations[1], ci95=_interval(after)),
        figure("area of the noise spectrum", unit=f"({unit})^2", method=method, before=before.area, after=after.area),
        figure(
            "mean frequency of noise",
            unit=per_length,
            method=f"{method}; mean weighted with the 2D power",
            before=before.mean_frequency,
            after=after.mean_frequency,
        ),
    ]
    name, method = "peak of the noise spectrum", f"{method}; parabola through the rings above 85 % of the largest"
    if source.modality == "PT":
        return [*figures, _nothing(name, source, "the fitted Gaussian has its peak at 0", region)]
    if before.has_peak:
        return [*figures, figure(name, unit=per_length, method=method, before=before.peak, after=after.peak)]
    reason = f"{before.pixels} flat pixels; a peak needs {LEAST_FOR_PEAK}"
    return [*figures, _nothing(name, source, reason, region)]


def _interval(spectrum: Spectrum) -> tuple[float, float] | None:
    """Bootstrap the SD over squares; neighbors overlap by half, so only half of them are drawn."""
    if len(spectrum.areas) < 2 * LEAST_SQUARES:
        return None
    rng = np.random.default_rng(0)
    drawn = rng.choice(spectrum.areas, (_DRAWS, len(spectrum.areas) // 2))
    low, high = np.percentile(np.sqrt(drawn.mean(axis=1)), [2.5, 97.5])
    return float(low), float(high)


def _nothing(name: str, source: Volume, reason: str, region: str = "") -> Figure:
    unit = f"1/{source.length}" if "frequency" in name or "peak" in name else source.unit
    return Figure(name, f"flat {region}".strip(), unit, _SQUARES, not_measured=f"nothing to measure: {reason}")
