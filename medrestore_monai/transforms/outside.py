"""CT voxels outside of what networks are trained on: noted before a restoration, and put back behind it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor

from medrestore_monai.intensity import INTENSITY_RANGES
from medrestore_monai.neighbors import inner_slices

__all__ = ["KeepOutsided", "NoteOutsided"]

_CT = INTENSITY_RANGES["CT"]


class NoteOutsided(Transform):
    """Note the CT voxels below -1024 or above 3072 HU (padding, metal), for :class:`KeepOutsided`.

    For the preprocessing, before ``ToUnitRanged``: scaling rounds values that are no whole HU. Images of other
    modalities, and those without such a voxel, get no note.

    Args:
        key: the image in HU; its meta data hold the modality.
        name: where the note goes: ``mask``, a bool tensor of the image's shape without the halo of a slab, and
            ``values``, those under the mask.
    """

    def __init__(self, key: str = "image", name: str = "outside") -> None:
        self.key, self.name = key, name

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data``, with the note where there is something to note."""
        out = dict(data)
        if getattr(out[self.key], "meta", {}).get("modality") == _CT.modality:
            image = convert_to_tensor(out[self.key], track_meta=False)
            if image.ndim == 4:
                image = image[..., inner_slices(out[self.key].meta, image.shape[-1])]
            mask = (image < _CT.lower) | (image > _CT.upper)
            if bool(mask.any()):
                out[self.name] = {"mask": mask, "values": image[mask]}
        return out


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
