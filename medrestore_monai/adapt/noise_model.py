"""The noise that one's own images have, of whatever modality: measured, checked, and drawn anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from medrestore_monai.adapt.noise_ct import CTNoiseModel, measure_ct_noise
from medrestore_monai.adapt.noise_pet import PETNoiseModel, measure_pet_noise

NoiseModel: TypeAlias = CTNoiseModel | PETNoiseModel
_UNEVEN = 1.02  # ratio of the two pixel sizes


def measure_noise(volume: Tensor, spacing: Sequence[float], modality: str) -> NoiseModel:
    """Measure the noise of a volume: level, grain, direction, place, and how it goes on from slice to slice.

    Args:
        volume: in HU or SUV, shape ``(1, X, Y, Z)``, whole slices in order.
        spacing: of pixels and slices in mm, three numbers.
        modality: ``CT`` or ``PT``.

    Returns:
        The noise: ``draw(generator)`` gives some, ``std`` its standard deviation, ``cropped``, ``scaled`` and
        ``of_family`` that of a part, of another level and of another spectrum. Its ``check`` may have failed.

    Raises:
        NoFlatTissueError: too little flat tissue.
        ValueError: no such volume, or a modality whose noise is not known.
    """
    if volume.ndim != 4 or volume.shape[0] != 1 or len(spacing) != 3:
        raise ValueError(f"expected a volume (1, X, Y, Z) and three spacings, got {tuple(volume.shape)} and {spacing}.")
    if not bool(torch.isfinite(volume).all()):
        raise ValueError("the volume has NaN or infinite values: expected finite ones.")
    if max(spacing[:2]) > _UNEVEN * min(spacing[:2]):
        raise ValueError(f"pixels must be square to measure noise, got {spacing[0]} x {spacing[1]} mm.")
    if modality == "CT":
        return measure_ct_noise(volume.float(), spacing)
    if modality == "PT":
        return measure_pet_noise(volume.float(), spacing)
    raise ValueError(f"noise is measured for CT and PT, got {modality!r}: adapt with clean images or pairs instead.")
