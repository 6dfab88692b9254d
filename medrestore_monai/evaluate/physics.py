"""What a restoration does to noise and sharpness, measured in each slice against its reference."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from medrestore_monai.audit import Volume
from medrestore_monai.audit.correlation import agreement
from medrestore_monai.audit.gain import measure_gain
from medrestore_monai.audit.noise import measure_noise

_BAND = 0.15, 0.6  # of the Nyquist frequency


def slice_physics(pred: Tensor, label: Tensor, modality: str, spacing: tuple[float, float, float]) -> dict[str, float]:
    """Return noise, signal gain and agreement of one slice; what cannot be measured there is left out.

    Args:
        pred: restored, shape ``(C, X, Y)``, in the modality's unit.
        label: reference, same shape and unit.
        modality: CT, PT or MR; others give nothing.
        spacing: of the voxels in mm.

    Returns:
        ``noise`` and ``noise_of_reference``: standard deviation in flat regions of the reference, of PET over the local
        mean; ``gain``: mean signal gain from 0.15 to 0.6 of the Nyquist frequency, 1 where the structure of the
        reference is kept; ``frc``: mean over patches of the frequency in 1/mm up to which they agree with the
        reference.
    """
    if modality not in ("CT", "PT", "MR"):
        return {}
    reference = Volume(label[0].cpu().numpy(), modality, spacing)
    image = reference.like(pred[0].cpu().numpy())
    values: dict[str, float] = {}
    noise = measure_noise(reference, image).figures[0]
    if noise.before is not None and noise.after is not None:
        values |= {"noise": noise.after, "noise_of_reference": noise.before}
    gain = measure_gain(reference, image)
    nyquist = 0.5 / max(reference.pixel)
    inside = (gain.frequency > _BAND[0] * nyquist) & (gain.frequency <= _BAND[1] * nyquist)
    if inside.any():
        values["gain"] = float(gain.gain[inside].mean())
    patches = agreement(reference, image)
    if len(patches):
        values["frc"] = float(np.mean(patches))
    return values
