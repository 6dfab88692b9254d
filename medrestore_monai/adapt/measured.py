"""Settings of training and verdict that are measured in the images of the site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medrestore_monai.adapt.request import Request
from medrestore_monai.data import Division, LoadImageOrSeriesd, shortened
from medrestore_monai.engines.errors import unwrapped
from medrestore_monai.transforms import CTNoiseMapd
from medrestore_monai.transforms.ct.noise import NoFlatTissueError

_SLICES = 12  # that are measured
_SPREAD = 0.2  # around what was measured


@dataclass(frozen=True)
class Measured:
    """Values of ``adapt.json`` and of ``evaluate.json``."""

    training: Mapping[str, Any] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)


def measured_settings(request: Request, division: Division) -> Measured:
    """Measure the noise of the images that train, for ``clean`` targets of CT: the sharpness of the kernel.

    Args:
        request: what is asked for.
        division: of the images.
    """
    if request.targets == "clean" and request.of_modality == "CT":
        return _of_ct(request, division)
    return Measured()


def _of_ct(request: Request, division: Division) -> Measured:
    load = LoadImageOrSeriesd("label", modality="CT", allow_gaps=request.allow_gaps, hu_offset=request.hu_offset)
    cutoffs = []
    for slab in shortened(division.parts["train"], _SLICES):
        with unwrapped():
            image = load(slab)["label"]
        for one in image.unbind(-1) if image.ndim == 4 else (image,):
            try:
                noise = CTNoiseMapd("image")({"image": one})["noise_map"]
            except NoFlatTissueError:
                continue
            cutoffs.append(float(noise.meta["ct_noise_cutoff"]))
    if not cutoffs:
        return Measured()
    middle = float(np.median(cutoffs))
    return Measured({"kernel_cutoff": [round(middle * (1 - _SPREAD), 3), round(middle * (1 + _SPREAD), 3)]})
