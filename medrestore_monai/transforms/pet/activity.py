"""Activity of PET images: to SUV for what is defined in SUV, and kept in total by a restoration."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

__all__ = ["KeepTotalActivityd", "ToSUVd", "keep_total_activity"]


def keep_total_activity(
    image: Tensor,
    restored: Tensor,
    clip_range: tuple[float, float] | None = None,
    untouched: Tensor | None = None,
) -> Tensor:
    """Scale every restored slice so that its sum is that of the input slice.

    Args:
        image: input, shape ``(1, X, Y)`` or ``(1, X, Y, Z)``, in any unit in which 0 is no activity.
        restored: of the same shape, in the same unit.
        clip_range: what of the input lies outside of this range, such as the hottest of a bladder, has passed by the
            network (:class:`~medrestore_monai.inferers.SliceWiseInferer`) and is not scaled; None: all is scaled.
        untouched: mask of voxels that will be those of the input: they neither count nor are scaled; None: there are
            none.

    Returns:
        ``restored``, slice by slice times one number; an empty slice stays empty, and one whose sum is otherwise not
        positive before or after stays as it was restored.

    Raises:
        ValueError: if the shapes differ, or are neither of the two.
    """
    if image.shape != restored.shape or image.ndim not in (3, 4) or image.shape[0] != 1:
        raise ValueError(
            f"expected two images of one shape (1, X, Y[, Z]), got {tuple(image.shape)} and {tuple(restored.shape)}."
        )
    inside = image if clip_range is None else image.clamp(*clip_range)
    outside = image - inside
    touched = torch.ones_like(image, dtype=torch.bool) if untouched is None else ~untouched
    before = (inside * touched).sum(dim=(0, 1, 2), dtype=torch.float64)
    after = ((restored - outside) * touched).sum(dim=(0, 1, 2), dtype=torch.float64)
    factor = torch.where((before > 0) & (after > 0), before / after, 1.0)
    factor = torch.where(inside.any(dim=(0, 1, 2)), factor, 0.0).to(restored.dtype)
    return torch.where(touched, restored * factor + outside * (1 - factor), restored)


class KeepTotalActivityd(MapTransform):
    """Scale every restored slice so that its total activity is that of the input slice.

    For the postprocessing of an ``inference.json``, before ``FromUnitRanged``: input and result must have one unit.

    Args:
        keys: the restored images, shape ``(1, X, Y[, Z])``.
        like: the input.
        enabled: False to change nothing.
        clip_range: the inferer's: what lies outside has passed by the network and is not scaled.
        outside: where :class:`~medrestore_monai.transforms.NoteOutsided` has noted voxels that will be those of the
            input: they neither count nor are scaled.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        like: str = "image",
        enabled: bool = True,
        clip_range: tuple[float, float] | None = (0, 1),
        outside: str = "outside",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.like, self.enabled, self.clip_range, self.outside = like, enabled, clip_range, outside

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images scaled."""
        out = dict(data)
        if not self.enabled:
            return out
        image = convert_to_tensor(out[self.like], track_meta=False)
        untouched = torch.as_tensor(out[self.outside]["mask"]) if self.outside in out else None
        for key in self.key_iterator(out):
            restored = convert_to_tensor(out[key], track_meta=False)
            untouched = None if untouched is None else untouched.to(restored.device)
            kept = keep_total_activity(image.to(restored), restored, self.clip_range, untouched)
            out[key] = convert_to_dst_type(kept, out[key])[0]
        return out


class ToSUVd(MapTransform):
    """Turn PET images in Bq/ml or counts into SUV, by the ``suv_factor`` that a loader has put in the meta data.

    Before a simulation in training, which is defined in SUV. Images that have no ``unit``, or SUV, stay as they are.

    Args:
        keys: the images.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: on a call, if an image is in Bq/ml or counts and its SUV is not known; the message says why.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images in SUV; ``suv_factor`` stays in their meta data, as a note."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            meta = getattr(image, "meta", {})
            if meta.get("unit", "SUV") == "SUV":
                continue
            if "suv_factor" not in meta:
                raise ValueError(str(meta.get("suv_missing", f"{key!r} is in {meta['unit']} and has no suv_factor.")))
            suv = convert_to_tensor(image, track_meta=False) * float(meta["suv_factor"])
            out[key] = MetaTensor(suv, meta={**meta, "unit": "SUV"})
        return out
