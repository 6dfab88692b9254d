"""Which part of the body's voxels has its reference within the interval that a bundle gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medrestore_monai.audit import Volume as Image
from medrestore_monai.audit.interval import Calibration, measure_interval, read_calibration, settings_of_result
from medrestore_monai.audit.noise import measure_noise
from medrestore_monai.evaluate.models import Model
from medrestore_monai.evaluate.volumes import Volume
from medrestore_monai.files import DataError


def calibration_of(model: Model, settings: Mapping[str, Any]) -> tuple[Calibration | None, str]:
    """Return the calibration of a model's intervals if it holds here, and a note on it; neither if there is none.

    Args:
        model: of one modality.
        settings: that the user gave.
    """
    bundle = model.candidate.bundle
    try:
        found = read_calibration(bundle, model.modality)
    except DataError as error:
        return None, f"{model.name}: no coverage of intervals: {error}"
    if found is None:
        return None, ""
    configuration = model.candidate.configuration
    void = found.why_void(model.restorer.weights_sha256, settings_of_result(bundle, settings, configuration))
    if void:
        return None, f"{model.name}: the coverage of its intervals is not measured: {void}."
    return found, f"{model.name}: its intervals are for {found.images}; out of scope, an audit has none."


def coverage_of_slices(
    volume: Volume, places: Sequence[int], restored: Sequence[Tensor], modality: str, calibration: Calibration
) -> list[float]:
    """Return the coverage of some slices of a volume; NaN where the noise cannot be measured.

    Args:
        volume: the images, degraded and clean.
        places: of the slices in it.
        restored: these slices, shape ``(C, X, Y)``, in the modality's unit.
        modality: CT, PT or MR.
        calibration: of the bundle that restored them.
    """
    sizes: dict[tuple[int, ...], list[int]] = {}  # of a series with slices of several sizes, each is an image
    for number, one in enumerate(restored):
        sizes.setdefault(tuple(one.shape), []).append(number)
    found = np.full(len(places), np.nan)
    for numbers in sizes.values():
        at = [volume.slices[places[number]] for number in numbers]
        source = Image(_stacked([one.case["image"] for one in at]), modality, volume.spacing)
        result = source.like(_stacked([restored[number] for number in numbers]))
        half = measure_interval(source, result, measure_noise(source, source), calibration).half_width
        if half is not None:
            held = np.abs(result.array - _stacked([one.label for one in at])) <= half
            voxels = (half > 0).sum(axis=(0, 1))
            share = (held & (half > 0)).sum(axis=(0, 1)) / np.maximum(voxels, 1)
            found[numbers] = np.where(voxels > 0, share, np.nan)
    return [float(one) for one in found]


def _stacked(slices: Sequence[Tensor]) -> np.ndarray:
    return torch.stack([one.as_subclass(torch.Tensor)[0].cpu() for one in slices], dim=-1).numpy()
