"""Settings of training and verdict that are measured in the images of the site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medrestore_monai.adapt.estimated_scores import noisy_slab
from medrestore_monai.adapt.recorruption import ALPHA, most_kept, target_weight
from medrestore_monai.adapt.refusals import refuse_removed
from medrestore_monai.adapt.request import Request
from medrestore_monai.adapt.risk import Risk, measure_risk
from medrestore_monai.adapt.scores import BEFORE, open_weights
from medrestore_monai.adapt.unfit import loader
from medrestore_monai.adapt.unfit_noise import relative_noise, slabs_of
from medrestore_monai.data import Division, LoadImageOrSeriesd, shortened
from medrestore_monai.engines.errors import unwrapped
from medrestore_monai.files import DataError
from medrestore_monai.transforms import CTNoiseMapd
from medrestore_monai.transforms.ct.noise import NoFlatTissueError

_SLICES = 12  # that are measured
_SPREAD = 0.2  # around what was measured
_TUNED = 4  # slices of each slab, in which the kept share is measured
_ALPHAS = 0.7, 1.5
MOST_RELATIVE = 0.3  # noise of PET whose level follows from the noisy value


@dataclass(frozen=True)
class Recorruption:
    """How pairs are made of noisy images.

    Args:
        alpha: how much noise is added to the input.
        passed: share of the noise that the shipped weights keep, and the verdict asks for.
        kept: share that is trained: the same, as far as ``alpha`` allows it.
    """

    alpha: float
    passed: float
    kept: float

    @property
    def beta(self) -> float:
        """How much noise is taken from the target."""
        return target_weight(self.alpha, self.kept)


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


def measured_recorruption(request: Request, division: Division, noise: Sequence[Mapping[str, Any]]) -> Recorruption:
    """Measure which share of the noise the shipped weights keep, on the slices that tune, and choose the recorruption.

    Args:
        request: what is asked for.
        division: of the images.
        noise: of :func:`~medrestore_monai.adapt.unfit_noise.refuse_noise`.

    Raises:
        DataError: the noise was measured so strong that the shipped weights would remove more than there is.
    """
    model = open_weights(request, {BEFORE: None}, {})[BEFORE]
    load = loader(request)
    risks: list[Risk] = []
    for number, slab in enumerate(slabs_of(division, "tune")):
        one = noisy_slab(load, slab, request.of_modality, _TUNED, model.context)
        found = measure_risk(one.restored_by(model), one.volume, one.noise, one.mask, seed=number)
        risks += [risk for risk in found if risk.variance > 0]
    if not risks:
        raise DataError("the slices that tune show nothing in which an error can be estimated: give other images.")
    if reason := refuse_removed([risk.removed_correlation for risk in risks]):
        raise DataError(reason)
    passed = float(np.clip(np.median([risk.passed for risk in risks]), 0.0, 1.0))
    return choose_recorruption(round(passed, 4), relative_noise(noise))


def choose_recorruption(passed: float, relative: float) -> Recorruption:
    """Choose how much noise is added to input and target.

    Args:
        passed: share of the noise that the shipped weights keep, 0..1.
        relative: relative noise of PET; NaN of CT. Above 30 % a noisy value no longer tells its noise, so that none is
            taken from the target (Noisier2Noise); the share to keep then decides how much is added to the input.
    """
    if relative > MOST_RELATIVE:
        alpha = float(np.clip(np.sqrt(1 / max(passed, 1e-3) - 1), *_ALPHAS))
        return Recorruption(round(alpha, 4), passed, most_kept(round(alpha, 4)))
    return Recorruption(ALPHA, passed, min(passed, most_kept(ALPHA)))


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
