"""Refuse degraded images whose noise cannot be drawn, or that were denoised, before a training without targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from medrestore_monai.adapt.noise_check import LevelCheck
from medrestore_monai.adapt.noise_model import NoiseModel
from medrestore_monai.adapt.noise_pet import PETNoiseModel
from medrestore_monai.adapt.probed import judged_region
from medrestore_monai.adapt.recorrupted import plain_volume, spacing_of
from medrestore_monai.adapt.refusals import refuse_images, refuse_shared, shared_noise
from medrestore_monai.adapt.request import Request
from medrestore_monai.adapt.slice_correlation import noise_correlation
from medrestore_monai.adapt.unfit import loader, read_slab
from medrestore_monai.audit import Volume
from medrestore_monai.audit.regions import body_mask, smoothed
from medrestore_monai.bundles import read_config
from medrestore_monai.data import Division, Item, shortened
from medrestore_monai.data.find import is_image_file
from medrestore_monai.dicom import read_series
from medrestore_monai.files import DataError

THICK = 8  # slices of a slab, whose noise is measured together
MOST = {"train": 48, "tune": 8}  # slices, of the training and of its validation
MOST_JUDGED = 20  # slices
CHECKS = (
    "modality, unit, pixel size, kernel and noise level beside the bundle's training",
    "windowed or clipped values",
    "interpolation and filters",
    "denoising",
    "level and place of drawn noise",
    "noise of neighboring slices",
    "one scan on two sides",
    "level of the noise beside what the shipped weights remove",
)
_SHARED = 4  # slices of each scan that are compared with those of another
_HEADER = ("ImageType", "ConvolutionKernel", "SeriesDescription", "DerivationDescription", "ProtocolName")


def slabs_of(division: Division, part: str) -> list[Item]:
    """Return what is used of a part without targets: up to 8 slices in a row of each slab; of each unit, one slab."""
    if part != "verdict":
        return shortened(division.parts[part], MOST[part], THICK)
    units: dict[int, Item] = {}
    for slab in division.parts[part]:
        known = units.get(slab["unit"])
        if known is None or slab["stop"] - slab["start"] > known["stop"] - known["start"]:
            units[slab["unit"]] = slab
    return [shortened([slab], THICK)[0] for slab in units.values()]


def refuse_noise(request: Request, division: Division) -> list[dict[str, Any]]:
    """Measure the noise of all that is used, and refuse what nothing can be learned from.

    Args:
        request: what is asked for.
        division: of the images.

    Returns:
        Figures of the noise for the report, one mapping a slab; nothing in them names an image.

    Raises:
        DataError: an image cannot be used; the message says why and what to do.
    """
    load = loader(request)
    trained_on = request.opened.metadata.get("trained_on", {})
    neighbors = bool(read_config(request.opened.config("inference")).config.get("context", 0))
    found, some = [], []
    for part in division.parts:
        for slab in slabs_of(division, part):
            image = read_slab(load, slab)["image"]
            spacing = spacing_of(image)
            source = Volume(plain_volume(image)[0].numpy(), request.of_modality, spacing)
            noise, reasons = refuse_images(source, trained_on, _header(slab), neighbors)
            if reasons or noise is None:
                raise DataError(f"{slab['name']}: {reasons[0]}")
            found.append({"part": part, "person": slab["person"] + 1, **_figures(noise, source)})
            middle = source.slices // 2
            start = max(0, middle - _SHARED // 2)
            some.append((part, slab, source.array[..., start : start + _SHARED], source.pixel))
    _refuse_shared(request, some)
    return found


def _refuse_shared(request: Request, some: Sequence[tuple[str, Item, np.ndarray, tuple[float, float]]]) -> None:
    judged = [one for one in some if one[0] == "verdict"]
    others = [one for one in some if one[0] != "verdict"]
    for (_, slab, array, pixel), (_, other, own, _) in product(judged, others):
        if slab["person"] == other["person"]:  # whose volumes are all divided at the same place
            continue
        pixels = int(body_mask(smoothed(array, pixel), request.of_modality).sum() / array.shape[2])
        reason = refuse_shared(shared_noise(array, own, pixel, request.of_modality), pixels)
        if reason:
            raise DataError(f"{slab['name']} and {other['name']}: {reason}")


def _figures(noise: NoiseModel, source: Volume) -> dict[str, Any]:
    """Return level, spectrum, correlation by lag and check, as plain values."""
    region = judged_region(source.array, source.pixel, source.modality)
    std = noise.std[0].numpy()[region]
    lags = noise_correlation(source.array, source.pixel, source.modality)
    spectrum: dict[str, Any]
    if isinstance(noise, PETNoiseModel):
        spectrum = {"grain_mm": round(noise.width, 2), "relative": _rounded(noise.relative)}
    else:
        frequency, gain = noise.rings
        spectrum = {
            "kernel_cutoff_per_mm": round(noise.cutoff, 3),
            "amplitude_gain": {f"{at:.2f}": round(float(value), 3) for at, value in zip(frequency, gain, strict=True)},
        }
    check = noise.check
    return {
        "slices": source.slices,
        "level": _rounded(float(np.median(std))) if std.size else None,
        "unit": source.unit,
        **spectrum,
        "axial_width_mm": round(noise.axial_width, 2),
        "correlation_by_lag": [_rounded(float(lag)) for lag in lags],
        **({} if check is None else _of_check(check)),
    }


def _of_check(check: LevelCheck) -> dict[str, Any]:
    return {
        "own_over_drawn": _rounded(check.level),
        "rescaled": [_rounded(value) for value in check.rescaled],
        "blocks": check.blocks,
        "blocks_outside": _rounded(check.outside),
        "variation": _rounded(check.variation),
    }


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None


def relative_noise(figures: Sequence[Mapping[str, Any]]) -> float:
    """Return the median relative noise of the slabs that train; NaN where it is not relative."""
    values = [one["relative"] for one in figures if one["part"] == "train" and one.get("relative") is not None]
    return float(np.median(values)) if values else float("nan")


def _header(slab: Item) -> str:
    """Return what a DICOM header says of the reconstruction; nothing for other files."""
    path = Path(str(slab["image"]))
    if is_image_file(path) or slab.get("array"):
        return ""
    with suppress(ValueError):
        dataset = read_series(path, slab["series_uid"] or None, allow_gaps=True).datasets[0]
        values = [dataset[name].value for name in _HEADER if name in dataset]
        return " ".join("\\".join(map(str, v)) if not isinstance(v, str) else v for v in values if v)
    return ""
