"""Training items of noisy images alone, for ``adapt_none.json``: their noise measured, drawn again, and put on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type
from torch import Tensor

from medrestore_monai.adapt.noise_model import NoiseModel, measure_noise
from medrestore_monai.adapt.noise_pet import PETNoiseModel
from medrestore_monai.adapt.recorruption import ALPHA, recorrupt, target_weight
from medrestore_monai.transforms.degradation import SLAB

__all__ = ["MeasuredNoised", "RandRecorruptd", "plain_volume", "spacing_of"]

NOISE, NOISE_MAP = "noise", "noise_map"


class MeasuredNoised(MapTransform):
    """Measure the noise of whole slices once and keep it beside them, its place as a map that is cropped with them.

    Deterministic, so it can be cached. Writes ``noise_map``, shape ``(D, X, Y, Z)``, and ``noise``, all else that
    :func:`~medrestore_monai.adapt.noise_model.measure_noise` finds. The image becomes a volume ``(1, X, Y, Z)``.

    Args:
        keys: the noisy slice or slab in HU or SUV, one key, shape ``(1, X, Y[, Z])``.
        modality: ``CT`` or ``PT``.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if not exactly one key is given; on a call, if the noise cannot be measured.
    """

    def __init__(self, keys: KeysCollection, modality: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(f"MeasuredNoised takes one key, got {self.keys}.")
        self.modality = modality

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with map and noise added."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = out[key] if out[key].ndim == 4 else out[key][..., None]
            volume = plain_volume(out[key])
            found = measure_noise(volume, spacing_of(out[key]), self.modality)
            out[NOISE_MAP] = convert_to_dst_type(found.maps, out[key], dtype=torch.float32)[0]
            out[NOISE] = _of_place(found, torch.zeros(0), torch.zeros(0))
        return out


class RandRecorruptd(RandomizableTransform, MapTransform):
    """Make input and target of one noisy image, by noise drawn as it has; see :mod:`recorruption`.

    Args:
        keys: noisy patch or slab of :class:`MeasuredNoised`, one key, shape ``(1, X, Y, Z)``; becomes the input. The
            numbers of its slices come from :class:`~medrestore_monai.transforms.RandSlabCropd`.
        label_key: where the target goes.
        alpha: how much noise is added to the input, above 0.
        kept: share of the input's noise that the output is to keep, in ``[0, 1 / (1 + alpha^2)]``; at its upper end
            the target is the image itself.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: a number is out of range.

    References:
        Pang et al., Recorrupted-to-Recorrupted, CVPR 2021
        Moran et al., Noisier2Noise, https://arxiv.org/abs/1910.11908
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        alpha: float = ALPHA,
        kept: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        target_weight(alpha, kept)  # refuses what is out of range
        self.label_key, self.alpha, self.kept = label_key, alpha, kept
        self._seed = 0

    def randomize(self, data: Any = None) -> None:
        """Draw the seed of the noise."""
        super().randomize(None)
        self._seed = int(self.R.randint(2**31 - 1))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with input and target."""
        out = dict(data)
        for key in self.key_iterator(out):
            self.randomize(None)
            image = plain_volume(out[key])
            noise = _of_place(out[NOISE], plain_volume(out[NOISE_MAP]), image)
            drawn = noise.draw(torch.Generator().manual_seed(self._seed), out.get(SLAB))
            given, wanted = recorrupt(image, drawn, self.alpha, self.kept)
            out[self.label_key] = convert_to_dst_type(wanted, out[key])[0]
            out[key] = convert_to_dst_type(given, out[key])[0]
        return out


def plain_volume(image: Any) -> Tensor:
    """Return a volume without meta data, float32, shape ``(C, X, Y, Z)``."""
    plain = torch.as_tensor(image).as_subclass(Tensor).float()
    return plain if plain.ndim == 4 else plain[..., None]


def spacing_of(image: Any) -> tuple[float, float, float]:
    """Return the size of the voxels of a loaded image in mm; 1 where it is unknown."""
    x, y, z = (float(step) or 1.0 for step in np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0))
    return x, y, z


def _of_place(noise: NoiseModel, maps: Tensor, volume: Tensor) -> NoiseModel:
    if isinstance(noise, PETNoiseModel):
        return replace(noise, maps=maps, volume=volume)
    return replace(noise, maps=maps)
