"""Thin slabs of volumes, to train networks that restore a slice with the help of its neighbors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import ensure_tuple
from torch import Tensor

from medrestore_monai.intensity import PADDING
from medrestore_monai.neighbors import HALO, SLICE_STEPS, inner_slices
from medrestore_monai.transforms.degradation import SLAB

__all__ = ["ContextChannelsd", "HaloCropd", "RandSlabCropd"]

_DROPPED = ("all", "before", "after")


class RandSlabCropd(RandomizableTransform, MapTransform):
    """Cut a patch of a slice and of its neighbors out of a volume, at random: training items of ``2K + 1`` slices.

    A neighbor that is not there, beyond the ends of the volume, is a copy of the middle slice; at random so are
    neighbors that are there, so that one network learns to do with and without them. The numbers of the slices go to
    ``data["slab"]``, and degradations draw noise by them: copies get the noise of what they are copies of.

    Args:
        keys: volumes ``(C, X, Y, Z)`` of one size, cut alike; an image ``(C, X, Y)`` is a volume of one slice.
        roi_size: patch size ``(X, Y)``; 0, or more than the volumes have, for the whole side.
        context: neighbors on each side, ``K``.
        drop_prob: probability that neighbors are left out: all of them, or those of one side, with equal chance.
        flip_prob: probability that the order of the slices is reversed.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: for values out of range; on a call, if the volumes differ in size.
    """

    def __init__(
        self,
        keys: KeysCollection,
        roi_size: Sequence[int],
        context: int,
        drop_prob: float = 0.3,
        flip_prob: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        if len(roi_size) != 2 or min(roi_size) < 0 or context < 0:
            raise ValueError(f"roi_size must be two sizes and context not negative, got {roi_size} and {context}.")
        if not (0 <= drop_prob <= 1 and 0 <= flip_prob <= 1):
            raise ValueError(f"drop_prob and flip_prob must be in 0..1, got {drop_prob} and {flip_prob}.")
        self.roi_size, self.context = (int(roi_size[0]), int(roi_size[1])), context
        self.drop_prob, self.flip_prob = drop_prob, flip_prob
        self._patch, self._corner, self._numbers = self.roi_size, (0, 0), [0]

    def randomize(self, data: Any = None) -> None:
        """Draw a patch of a volume of size ``data``, ``(X, Y, Z)``."""
        super().randomize(None)
        x, y, slices = data
        middle = int(self.R.randint(slices))
        self._patch = (min(self.roi_size[0] or x, x), min(self.roi_size[1] or y, y))
        self._corner = (int(self.R.randint(x - self._patch[0] + 1)), int(self.R.randint(y - self._patch[1] + 1)))
        drop, flip = self.R.random_sample(2) < (self.drop_prob, self.flip_prob)
        dropped = _DROPPED[int(self.R.randint(len(_DROPPED)))] if drop else ""
        numbers = []
        for offset in range(-self.context, self.context + 1):
            left_out = offset != 0 and (dropped == "all" or dropped == ("before" if offset < 0 else "after"))
            inside = 0 <= middle + offset < slices
            numbers.append(middle + offset if inside and not left_out else middle)
        self._numbers = numbers[::-1] if flip else numbers

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with patches ``(C, X, Y, 2K + 1)``, and their slice numbers under ``slab``."""
        out = dict(data)
        volumes = {key: out[key] if out[key].ndim == 4 else out[key][..., None] for key in self.key_iterator(out)}
        sizes = {tuple(volume.shape[1:]) for volume in volumes.values()}
        if len(sizes) != 1:
            raise ValueError(f"the volumes must be of one size, got {sorted(sizes)}.")
        size = sizes.pop()
        self.randomize(size)
        x, y = (slice(first, first + side) for first, side in zip(self._corner, self._patch, strict=True))
        for key, volume in volumes.items():
            patch = volume[:, x, y]
            out[key] = torch.stack([patch[..., number] for number in self._numbers], dim=-1)
        out[SLAB] = list(self._numbers)
        return out


class ContextChannelsd(MapTransform):
    """Turn slabs into what a network with context takes: the slices become channels, the label is the middle one.

    Args:
        keys: degraded slabs of one channel, ``(1, X, Y, 2K + 1)``; they become ``(2K + 1, X, Y)``.
        label_keys: slabs of which the middle slice is kept, ``(C, X, Y)``.
        allow_missing_keys: as in MONAI, for both.

    Raises:
        ValueError: on a call, if a slab has an even count of slices, or one of ``keys`` several channels.
    """

    def __init__(
        self, keys: KeysCollection, label_keys: KeysCollection = "label", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_keys = ensure_tuple(label_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with images ``(2K + 1, X, Y)`` and labels ``(C, X, Y)``."""
        out = dict(data)
        for key in self.key_iterator(out):
            slab = _slab(out[key], key)
            if slab.shape[0] != 1:
                raise ValueError(f"{key!r} must have one channel, got {slab.shape[0]}.")
            out[key] = slab[0].movedim(-1, 0)
        for key in self.label_keys:
            if key in out or not self.allow_missing_keys:
                slab = _slab(out[key], key)
                out[key] = slab[..., slab.shape[-1] // 2]
        return out


class HaloCropd(MapTransform):
    """Take away the slices that a slab was read with for their neighbors' sake, see ``halo`` in its meta data.

    Args:
        keys: slabs ``(C, X, Y, Z)``; those without a halo stay as they are.
        allow_missing_keys: as in MONAI.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with slabs as they were asked for."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            kept = inner_slices(getattr(image, "meta", {}), image.shape[-1])
            if image.ndim == 4 and kept.stop - kept.start < image.shape[-1]:
                inner = MetaTensor(image.as_tensor()[..., kept], meta=dict(image.meta))
                inner.meta[HALO] = np.zeros(2, dtype=int)
                if PADDING in inner.meta:
                    inner.meta[PADDING] = inner.meta[PADDING][..., kept]
                if SLICE_STEPS in inner.meta:
                    inner.meta[SLICE_STEPS] = inner.meta[SLICE_STEPS][kept.start : kept.stop - 1]
                out[key] = inner
        return out


def _slab(image: Tensor, key: Hashable) -> Tensor:
    if image.ndim != 4 or image.shape[-1] % 2 == 0:
        raise ValueError(f"{key!r} must be a slab (C, X, Y, 2K + 1), got the shape {tuple(image.shape)}.")
    return image
