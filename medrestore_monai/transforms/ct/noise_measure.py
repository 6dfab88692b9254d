"""The noise that CT slices and volumes already have, measured once and kept as a map beside them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from medrestore_monai.transforms.ct.noise import CTNoise, NoFlatTissueError, ct_noise_map, estimate_ct_noise
from medrestore_monai.transforms.degradation import pixel_spacing

__all__ = ["CT_NOISE", "CTNoiseMapd", "typical_noise"]

#: Key of the item for what the texture of a noise map is.
CT_NOISE = "ct_noise"


def typical_noise(slices: Sequence[Tensor], spacing: float) -> CTNoise | None:
    """The noise in the middle of all that can be measured, for slices that show too little soft tissue.

    Args:
        slices: of one series in HU, each of shape ``(1, X, Y)``.
        spacing: pixel size in mm.

    Returns:
        The noise of the slice of the median scale; ``None`` if no slice can be measured.
    """
    found = []
    for one in slices:
        with suppress(NoFlatTissueError):
            found.append(estimate_ct_noise(one, spacing))
    return sorted(found, key=lambda noise: noise.scale)[len(found) // 2] if found else None


class CTNoiseMapd(MapTransform):
    """Measure the noise of whole slices once and keep it as a map beside them, to be cropped together with them.

    Deterministic, so it can be cached. Writes ``noise_map_key``: standard deviation in HU per direction, shape
    ``(directions, X, Y[, Z])``, a ``MetaTensor`` whose meta data hold ``ct_noise_cutoff`` (cycles/mm), ``ct_noise_std``
    (HU, median in soft tissue), ``ct_noise_scale`` (HU) and ``ct_noise_spacing`` (mm). Cutoff and spacing also go to
    ``ct_noise``, so that the map can be a plain tensor from here on, which random crops and flips handle in half the
    time.

    A series has one kernel: the cutoff of a volume is the median of its slices'. Each slice has a level of its own;
    ``ct_noise_std`` and ``ct_noise_scale`` of a volume are their medians.

    Args:
        keys: the routine-dose slice or volume in HU, one key, shape ``(1, X, Y[, Z])``.
        noise_map_key: where the map goes.
        spacing: pixel size in mm; from the slice's affine by default.
        directions: number of directions of the map; 1 for isotropic noise.
        dtype: of the map; ``torch.float16`` halves the memory of a cache.
        fallback: noise assumed for a slice with too little soft tissue to measure it, such as one of the lung's apex,
            where no other slice of the volume can be measured either; ``None`` to refuse such a slice.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if not exactly one key is given.
    """

    def __init__(
        self,
        keys: KeysCollection,
        noise_map_key: str = "noise_map",
        spacing: float | None = None,
        directions: int = 4,
        dtype: torch.dtype = torch.float32,
        fallback: CTNoise | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(f"CTNoiseMapd takes one key, got {self.keys}.")
        self.noise_map_key, self.spacing, self.directions, self.dtype = noise_map_key, spacing, directions, dtype
        self.fallback = fallback

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the map added."""
        out = dict(data)
        for key in self.key_iterator(out):
            noise_map = self._measure(out[key])
            out[self.noise_map_key] = noise_map
            out[CT_NOISE] = {name: noise_map.meta[f"ct_noise_{name}"] for name in ("cutoff", "spacing")}
        return out

    def _measure(self, image: Tensor) -> MetaTensor:
        spacing = pixel_spacing(image) if self.spacing is None else self.spacing
        hu = torch.as_tensor(image, dtype=torch.float32)
        hu = hu.as_tensor() if isinstance(hu, MetaTensor) else hu
        slices = hu.unbind(-1) if hu.ndim == 4 else (hu,)
        maps = [ct_noise_map(one, spacing, self.directions).to(self.dtype) for one in slices]
        noises = self._noise_of(slices, spacing, maps)
        for relative, noise in zip(maps, noises, strict=True):
            relative *= noise.scale
        values = torch.stack(maps, dim=-1) if hu.ndim == 4 else maps[0]
        noise_map = MetaTensor(values, affine=getattr(image, "affine", None))
        middle = sorted(noises, key=lambda noise: noise.scale)[len(noises) // 2]
        noise_map.meta.update(
            ct_noise_cutoff=middle.cutoff,
            ct_noise_std=middle.std,
            ct_noise_scale=middle.scale,
            ct_noise_spacing=spacing,
        )
        return noise_map

    def _noise_of(self, slices: Sequence[Tensor], spacing: float, maps: Sequence[Tensor]) -> list[CTNoise]:
        """Noise of each slice, all of one cutoff; where it cannot be measured, that of the median slice."""
        found: dict[int, CTNoise] = {}
        for number, (one, relative) in enumerate(zip(slices, maps, strict=True)):
            try:
                found[number] = estimate_ct_noise(one, spacing, relative.float())
            except NoFlatTissueError:
                if len(slices) == 1 and self.fallback is None:
                    raise
        if not found:
            if self.fallback is None:
                raise NoFlatTissueError(f"none of {len(slices)} slices shows enough flat soft tissue to measure noise.")
            return [self.fallback] * len(slices)
        if len(slices) == 1:
            return [found[0]]
        cutoff = sorted(noise.cutoff for noise in found.values())[len(found) // 2]
        for number in found:
            found[number] = estimate_ct_noise(slices[number], spacing, maps[number].float(), cutoff)
        middle = sorted(found.values(), key=lambda noise: noise.scale)[len(found) // 2]
        return [found.get(number, middle) for number in range(len(slices))]
