"""Bias: is the mean kept? By tissue in CT, in hot regions and in total in PET, over the measured k-space in MR."""

from __future__ import annotations

import numpy as np

from medrestore_monai.audit.figures import Figure
from medrestore_monai.audit.hot_regions import find_hot_regions, suv_peak
from medrestore_monai.audit.regions import body_mask, classes_of, smoothed
from medrestore_monai.audit.volume import Volume

_LEAST_VOXELS = 200
_LEAST_DROP = 10.0  # power of a line of k-space over that of rounding, from which it was measured
_LEAST_LINES = 2  # beyond the band on either side
_PRECISION = 2.0**-22  # of float32, relative to the largest value


def measure_bias(source: Volume, restored: Volume) -> list[Figure]:
    """Measure what a restoration must not move, as the modality has it.

    Args:
        source: the input.
        restored: the output, on the same grid.
    """
    if source.modality == "PT":
        return _activity(source, restored)
    figures = _means(source, restored)
    return [*figures, kspace_residual(source, restored)] if source.modality == "MR" else figures


def _means(source: Volume, restored: Volume) -> list[Figure]:
    """Mean per tissue class; classes come from the smoothed source, so that noise moves no pixel to another one."""
    smooth = smoothed(source.array, source.pixel)
    body = body_mask(smooth, source.modality)
    method = "mean of the same voxels, by the source smoothed with 2.5 mm"
    figures = []
    for one in classes_of(smooth, body, source.modality):
        inside = one.inside(smooth) & (body | (one.high <= -500))  # the lung is no part of a CT's body mask
        count = int(inside.sum())
        if count < _LEAST_VOXELS:
            reason = f"nothing to measure: {count} voxels; {_LEAST_VOXELS} are needed"
            figures.append(Figure("mean", one.name, source.unit, method, n=count, not_measured=reason))
            continue
        before, after = (float(image.array[inside].mean(dtype=np.float64)) for image in (source, restored))
        figures.append(Figure("mean", one.name, source.unit, method, before, after, count, "voxels"))
    if not figures:
        reason = "nothing to measure: the image has a single value"
        figures.append(Figure("mean", "tissue", source.unit, method, not_measured=reason))
    return figures


def _activity(source: Volume, restored: Volume) -> list[Figure]:
    factor = 1.0 if source.unit == "SUV" else source.suv_factor
    volume = float(np.prod(source.spacing)) / 1000
    totals = [float(image.array.sum(dtype=np.float64)) * volume for image in (source, restored)]
    method = "sum of the voxels times their volume"
    unit = "SUV ml" if source.unit == "SUV" else "Bq" if source.unit == "Bq/ml" else f"{source.unit} ml"
    count = source.array.size
    figures = [Figure("total activity", "whole volume", unit, method, totals[0], totals[1], count, "voxels")]
    if factor is None:
        reason = "nothing to measure: the SUV per unit of the image is unknown"
        return [*figures, Figure("SUVmean", "hot regions", "SUV", "", not_measured=reason)]
    before, after = (image.array * np.float32(factor) for image in (source, restored))
    found = find_hot_regions(before, source.spacing)
    if not found:
        reason = "nothing to measure: no voxel of SUV 2.5 stands out of its surroundings"
        return [*figures, Figure("SUVmean", "hot regions", "SUV", "", not_measured=reason)]
    for number, (mask, rule) in enumerate(found, 1):
        name = f"hot region {number}"
        voxels = int(mask.sum())
        for title, reduce in (("SUVmean", np.mean), ("SUVmax", np.max)):
            values = [float(reduce(image[mask])) for image in (before, after)]
            method = f"region of the source: {rule}"
            figures.append(Figure(title, name, "SUV", method, values[0], values[1], voxels, "voxels"))
        figures.append(_peak_figure(before, after, mask, source.spacing, name, voxels))
    return figures


def _peak_figure(
    before: np.ndarray, after: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float], name: str, voxels: int
) -> Figure:
    method = "highest mean of a sphere of 1 ml, fractional voxels, center in the region, steps of 1 mm"
    peaks = [suv_peak(image, mask, spacing) for image in (before, after)]
    if peaks[0] is None or peaks[1] is None:
        reason = "nothing to measure: a sphere of 1 ml does not fit into the volume"
        return Figure("SUVpeak", name, "SUV", method, n=voxels, counted="voxels", not_measured=reason)
    return Figure("SUVpeak", name, "SUV", method, peaks[0], peaks[1], voxels, "voxels")


def kspace_residual(source: Volume, restored: Volume) -> Figure:
    """Measure ``|B (F x - F y)| / |B F y|`` over the measured band ``B`` of k-space.

    The band is where the power of the source falls to that of rounding beyond it. An image whose k-space is not cut
    does not show what was measured.
    """
    method = "norm of the change over norm of the source, within the band that the zero-filled source was measured in"
    spectrum = np.fft.fft2(source.array, axes=(0, 1))
    power = (np.abs(spectrum) ** 2).mean(axis=2)
    floor = _rounding(source.array) ** 2 / 12 * source.array[..., 0].size
    bands = []
    for axis, size in enumerate(power.shape):
        lines = power.mean(axis=1 - axis)
        wave = np.abs(np.fft.fftfreq(size, 1 / size))
        measured = wave[lines > _LEAST_DROP * floor]
        bands.append((wave, float(measured.max()) if len(measured) else 0.0))
    cut = any(size / 2 - last > _LEAST_LINES for size, (_, last) in zip(power.shape, bands, strict=True))
    if not cut or min(last for _, last in bands) == 0:
        reason = "nothing to measure: the k-space of the source has no empty border, so its measured band is unknown"
        return Figure("residual over the measured k-space", "volume", "1", method, not_measured=reason)
    inside = np.outer(*[wave <= last for wave, last in bands])[..., None]
    change = np.fft.fft2(restored.array - source.array, axes=(0, 1)) * inside
    value = float(np.linalg.norm(change) / np.linalg.norm(spectrum * inside))
    region = " x ".join(f"{2 * int(last) + 1} of {size}" for size, (_, last) in zip(power.shape, bands, strict=True))
    count = int(inside.sum()) * source.slices
    return Figure("residual over the measured k-space", f"{region} lines", "1", method, 0.0, value, count, "samples")


def _rounding(values: np.ndarray) -> float:
    """Return the step that values were rounded to, or what float32 leaves."""
    distinct = np.unique(values.ravel()[:: max(1, values.size // 100_000)].astype(np.float64))
    step = float(np.diff(distinct).min()) if len(distinct) > 1 else 0.0
    return max(step, float(np.abs(values).max()) * _PRECISION)
