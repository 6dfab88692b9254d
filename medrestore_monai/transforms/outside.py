"""Voxels outside of what networks are trained on: noted before a restoration, and put back behind it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor

from medrestore_monai.intensity import INTENSITY_RANGES, NOT_YET_SUV, PADDING
from medrestore_monai.neighbors import inner_slices

__all__ = ["KeepOutsided", "NoteOutsided"]


class NoteOutsided(Transform):
    """Note the voxels that no restoration may change, for :class:`KeepOutsided`.

    These are, of CT, those below -1024 or above 3072 HU (padding, metal), of PET those above ``largest_suv`` (the
    hottest of a bladder), and those that the loader noted as padding. MR has no range: its highest values are tissue.

    For the preprocessing, before ``ToUnitRanged``: scaling rounds. Images without such a voxel get no note.

    Args:
        key: the image in its physical unit; its meta data hold the modality, and the unit of PET.
        name: where the note goes: ``mask``, a bool tensor of the image's shape without the halo of a slab, and
            ``values``, those under the mask.
        largest_suv: of PET, the greatest SUV that the network was trained on.
    """

    def __init__(self, key: str = "image", name: str = "outside", largest_suv: float = 20.0) -> None:
        self.key, self.name, self.largest_suv = key, name, largest_suv

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data``, with the note where there is something to note."""
        out = dict(data)
        image, meta = convert_to_tensor(out[self.key], track_meta=False), getattr(out[self.key], "meta", {})
        lower, upper = _trained_range(meta, self.largest_suv)
        mask = (image < lower) | (image > upper)
        if PADDING in meta:
            mask |= torch.as_tensor(meta[PADDING])
        if image.ndim == 4:
            inner = inner_slices(meta, image.shape[-1])
            mask, image = mask[..., inner], image[..., inner]
        if bool(mask.any()):
            out[self.name] = {"mask": mask, "values": image[mask]}
        return out


def _trained_range(meta: Mapping[str, Any], largest_suv: float) -> tuple[float, float]:
    """What an image has in its physical unit where networks know it; without limits where that is not known."""
    modality = meta.get("modality")
    if modality == "CT":
        return INTENSITY_RANGES[modality].lower, INTENSITY_RANGES[modality].upper
    factor = meta.get("suv_factor") if meta.get("unit") in NOT_YET_SUV else 1.0
    if modality == "PT" and factor is not None:
        return -math.inf, largest_suv / float(factor)
    return -math.inf, math.inf


class KeepOutsided(MapTransform):
    """Put the voxels that :class:`NoteOutsided` noted back, bit by bit: no restoration may move padding or metal.

    For the postprocessing, behind everything that changes values, where the images are in HU again.

    Args:
        keys: the restored images, of the shape of the one that was noted.
        name: of the note; items without one pass unchanged.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: on a call, if an image has another shape than the noted one.
    """

    def __init__(self, keys: KeysCollection = "pred", name: str = "outside", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.name = name

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images as they were outside."""
        out = dict(data)
        if self.name not in out:
            return out
        mask, values = (torch.as_tensor(out[self.name][part]) for part in ("mask", "values"))
        for key in self.key_iterator(out):
            restored = convert_to_tensor(out[key], track_meta=False).clone()
            if restored.shape != mask.shape:
                raise ValueError(
                    f"{key!r} has the shape {tuple(restored.shape)}, where that of the noted image, "
                    f"{tuple(mask.shape)}, is expected."
                )
            restored[mask.to(restored.device)] = values.to(restored)
            out[key] = convert_to_dst_type(restored, out[key])[0]
        return out
