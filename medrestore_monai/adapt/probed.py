"""Validation without targets, for ``adapt_none.json``: the estimated error as the key metric of MONAI's evaluator."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.config import KeysCollection
from monai.networks.utils import eval_mode
from monai.transforms import MapTransform
from scipy.ndimage import binary_erosion
from torch import Tensor, nn

from medrestore_monai.adapt.noise_model import measure_noise
from medrestore_monai.adapt.noise_pet import LEAST_SUV, LOCAL_MEAN
from medrestore_monai.adapt.recorrupted import plain_volume, spacing_of
from medrestore_monai.adapt.risk import STEP, Risk
from medrestore_monai.audit.regions import body_mask, smoothed
from medrestore_monai.intensity import INTENSITY_RANGES

__all__ = ["EstimatedError", "ProbedNoised", "judged_region"]

SCORE = "minus_estimated_error"
_TISSUE = (-150.0, 250.0)  # HU, smoothed
_BORDER = 8  # pixels of the body that do not count


def judged_region(volume: np.ndarray, pixel: tuple[float, float], modality: str) -> np.ndarray:
    """Return where errors are estimated: where noise is known and nothing is clipped.

    Args:
        volume: in HU or SUV, shape ``(X, Y, Z)``.
        pixel: size in mm.
        modality: ``CT``: soft tissue, 8 pixels or more within the body; ``PT``: where the local mean is over 0.2 SUV.

    Returns:
        A mask of shape ``(X, Y, Z)``.
    """
    smooth = smoothed(volume, pixel)
    body = body_mask(smooth, modality)
    if modality == "PT":
        return np.asarray(body & (smoothed(volume, pixel, LOCAL_MEAN) > LEAST_SUV))
    inside = np.stack([binary_erosion(one, iterations=_BORDER) for one in np.moveaxis(body, -1, 0)], axis=-1)
    return np.asarray(inside & (smooth > _TISSUE[0]) & (smooth < _TISSUE[1]))


class ProbedNoised(MapTransform):
    """Add what the error is estimated with: ``probe``, a draw of the noise, its ``variance``, and a ``mask``.

    Args:
        keys: the noisy slab in HU or SUV, one key, shape ``(1, X, Y[, Z])``; becomes a volume. The three have the
            shape of it; probe and variance are scaled as ToUnitRanged scales images.
        modality: ``CT`` or ``PT``.
        seed: of the probe; the same for every validation.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if not exactly one key is given; on a call, if the noise cannot be measured.
    """

    def __init__(self, keys: KeysCollection, modality: str, seed: int = 0, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(f"ProbedNoised takes one key, got {self.keys}.")
        self.modality, self.seed = modality, seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the three added."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = out[key] if out[key].ndim == 4 else out[key][..., None]
            volume, spacing = plain_volume(out[key]), spacing_of(out[key])
            noise = measure_noise(volume, spacing, self.modality)
            width = unit_width(self.modality)
            out["probe"] = noise.draw(torch.Generator().manual_seed(self.seed)) / width
            out["variance"] = noise.std.square() / width**2
            out["mask"] = torch.from_numpy(judged_region(volume[0].numpy(), spacing[:2], self.modality))[None]
        return out


class EstimatedError:
    """Key metric of a MONAI evaluator: minus the error estimated without the truth, so that larger is better.

    Each batch is restored three times: as it is, and with its probe added and taken away.

    Args:
        network: that is validated.
        inferer: that runs it.
        kept: share of the noise that the output is to keep.
        modality: ``CT`` or ``PT``; the metric is in HU^2 or SUV^2.
    """

    def __init__(self, network: nn.Module, inferer: Callable[..., Tensor], kept: float, modality: str) -> None:
        self.network, self.inferer, self.kept = network, inferer, kept
        self.unit = unit_width(modality) ** 2
        self._errors: list[tuple[float, float]] = []

    def attach(self, engine: Engine, name: str) -> None:
        """Follow an evaluator whose items :class:`ProbedNoised` made."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._note, name)

    def _reset(self, engine: Engine) -> None:
        self._errors = []

    def _add(self, engine: Any) -> None:
        for output, item in zip(engine.state.output, engine.state.batch, strict=True):
            image = output["image"]
            probe, variance, mask = (
                plain_volume(item[name]).to(image.device) for name in ("probe", "variance", "mask")
            )
            count = float(mask.sum())
            if not count:
                continue
            with eval_mode(self.network):
                up, down = (self.inferer((image + step * probe)[None], self.network)[0] for step in (STEP, -STEP))
            moved = (up - down).as_subclass(Tensor).double() / (2 * STEP)
            removed = (image - output["pred"]).as_subclass(Tensor).double()
            change, level = (float((one * mask).sum()) / count for one in (removed.square(), variance.double()))
            energy = float((probe.double().square() * mask).sum())
            passed = float((probe * moved * mask).sum()) / max(energy, 1e-30)
            self._errors.append((Risk(change, passed, level).error(self.kept), count))

    def _note(self, engine: Any, name: str) -> None:
        if not self._errors:
            raise ValueError("the slices that tune show nothing in which an error can be estimated: give others.")
        errors, counts = zip(*self._errors, strict=True)
        engine.state.metrics[name] = -float(np.average(errors, weights=counts)) * self.unit


def unit_width(modality: str) -> float:
    """Return how many HU or SUV become 1."""
    known = INTENSITY_RANGES[modality]
    return known.upper - known.lower
