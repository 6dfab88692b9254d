"""How papers score: ranges, windows and which scores. One place, so that equal names mean equal numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from medrestore_monai.intensity import INTENSITY_RANGES
from medrestore_monai.metrics import body_mask, delta_e, slice_scores

__all__ = ["HIGHER_IS_BETTER", "MEASURED", "OF_BUNDLES", "PROTOCOLS", "Protocol"]

HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "rmse": False, "delta_e": False}
#: What some slices have only, and what no number says is better of.
MEASURED = ("noise", "noise_of_reference", "gain", "frc", "coverage")
#: Of these, what only a bundle can have, so that there is nothing to compare it with.
OF_BUNDLES = ("coverage",)
_WHOLE, _BODY = "whole slice", "body"


@dataclass(frozen=True)
class Protocol:
    """What is scored, and in which range.

    Args:
        name: as on the command line.
        description: one sentence or two for the report.
        scores: of ``psnr``, ``ssim``, ``rmse`` (unit of the modality) and ``delta_e`` (color pictures).
        windows: by modality; one that is not listed is scored in the range its image was scaled from.
        data_range: see :func:`~medrestore_monai.metrics.slice_scores`.
        count_border: see there.
        body: score CT slices also inside the body.
        gray_as_rgb: give gray images a color difference too.
        physics: of CT, PET and MR, measure noise, signal gain, Fourier ring correlation and coverage as well.
        settings: values of a bundle's ``evaluate.json`` the protocol asks for, by modality; where a bundle has no value
            of that name, its own degradation stands.
    """

    name: str
    description: str
    scores: tuple[str, ...] = ("psnr", "ssim", "rmse", "delta_e")
    windows: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    data_range: str = "window"
    count_border: bool = False
    body: bool = False
    gray_as_rgb: bool = False
    physics: bool = False
    settings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def window(self, modality: str, scaled_from: tuple[float, float]) -> tuple[float, float]:
        """Return the window of one image: the modality's, or the range that it was scaled from."""
        return self.windows.get(modality, scaled_from)

    def score(
        self, pred: Tensor, label: Tensor, modality: str, window: tuple[float, float]
    ) -> dict[str, dict[str, float]]:
        """Score one slice.

        Args:
            pred: restored, shape ``(C, X, Y)``, in the modality's unit.
            label: reference, same shape and unit.
            modality: a key of :data:`~medrestore_monai.intensity.INTENSITY_RANGES`.
            window: see :meth:`window`.

        Returns:
            The scores by region, ``whole slice`` and perhaps ``body``.

        Raises:
            ValueError: see :func:`~medrestore_monai.metrics.slice_scores`.
        """
        pair = pred[None], label[None]
        regions: dict[str, Tensor | None] = {_WHOLE: None}
        if self.body and modality == "CT":
            mask = body_mask(label[0].cpu().numpy())
            if mask[5:-5, 5:-5].any():
                regions[_BODY] = torch.from_numpy(mask)[None, None].to(label.device)
        result = {}
        for region, inside in regions.items():
            values = slice_scores(*pair, window, self.data_range, self.count_border, inside)
            result[region] = {name: float(values[name]) for name in self.scores if name in values}
        if "delta_e" in self.scores and (len(label) == 3 or self.gray_as_rgb):
            lower, upper = window
            scaled = ((image - lower) / (upper - lower) for image in pair)
            result[_WHOLE]["delta_e"] = float(delta_e(*scaled))
        return result

    @staticmethod
    def leaves_out(label: Tensor, window: tuple[float, float]) -> bool:
        """Return whether a reference slice ``(C, X, Y)`` has no contrast to score against, such as one of air only."""
        inside = np.clip(label.cpu().numpy(), *window)
        return bool(inside.min() == inside.max())


_CT_AND_PET = {name: INTENSITY_RANGES[name].window for name in ("CT", "PT")}

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "standard",
            "Slices in the modality's window (CT -160 to 240 HU, PET 0 to 20 SUV, else the range of the image), whose "
            "width is the data range; SSIM without its border of 5 pixels; CT also inside the body. Of CT, PET and MR "
            "also the noise in flat regions, the signal gain from 0.15 to 0.6 of Nyquist, the frequency up to which "
            "patches agree with the reference (FRC) and, of a bundle with intervals, the part of the body's voxels "
            "whose reference lies within (coverage).",
            windows=_CT_AND_PET,
            body=True,
            physics=True,
        ),
        Protocol(
            "restore-rwkv",
            "As the public code of Restore-RWKV (arXiv 2407.11087): CT in -160 to 240 HU, PET in 0 to 20 SUV, MR in 0 "
            "to 4095; the data range of a slice is the largest minus the smallest value of its reference in that "
            "window, and the border, zeros around, counts in SSIM; slices with a constant reference are left out.",
            windows={**_CT_AND_PET, "MR": INTENSITY_RANGES["MR"].window},
            data_range="label",
            count_border=True,
            scores=("psnr", "ssim", "rmse"),
            settings={"CT": {"dose": 0.25}, "MR": {"kspace_fraction": 0.25}, "PT": {"drf": 12}},
        ),
        Protocol(
            "meddeblur",
            "The scores of MedDeblur (PSNR, SSIM, DeltaE CIEDE2000; gray as RGB) in the full range of the pictures. "
            "The paper does not define its SSIM: here it is that of the standard protocol.",
            scores=("psnr", "ssim", "delta_e"),
            gray_as_rgb=True,
            windows=_CT_AND_PET,
        ),
        Protocol(
            "aff",
            "The scores of AFF-UNet-RWKV (PSNR, SSIM) in the full range of the pictures. The paper does not define its "
            "SSIM: here it is that of the standard protocol.",
            scores=("psnr", "ssim"),
            windows=_CT_AND_PET,
        ),
        Protocol(
            "mlff",
            "The scores of MLFF-DMRFAB-UNet (PSNR, SSIM) on color pictures in their full range. The paper does not "
            "define its SSIM: here it is that of the standard protocol, over all three channels.",
            scores=("psnr", "ssim"),
            windows=_CT_AND_PET,
        ),
    )
}
