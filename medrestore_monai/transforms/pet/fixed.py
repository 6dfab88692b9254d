"""Low-count PET that does not change from run to run or machine to machine, for validation and tests."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from medrestore_monai.transforms.degradation import pixel_spacing, slice_distance
from medrestore_monai.transforms.fixed import VOLUME_KEYS, seed_of, slice_generator, slice_numbers
from medrestore_monai.transforms.pet.low_count import PETLowCount, insert_pet_noise
from medrestore_monai.transforms.pet.noise import COUNTS
from medrestore_monai.transforms.pet.scan import PETScan, simulate_pet_low_count

__all__ = ["PETLowCountd"]


class PETLowCountd(MapTransform):
    """Turn full-count PET slices or volumes into low-count ones; the noise is drawn from the item's name.

    Each slice has noise of its own number, which is correlated with that of its neighbors: a volume, a slab of it that
    begins at ``start``, and its slices one by one, which ``slice`` numbers, get the same noise.

    The values used go to ``data["pet_low_count"]``, as in :class:`~medrestore_monai.transforms.RandPETLowCountd`.

    Args:
        keys: whole full-count slices or volumes in SUV, shape ``(1, X, Y[, Z])``.
        drf: dose reduction factor, at least 1.
        counts: coincidences per SUV and mm^2 at full count.
        width: full width at half maximum of the post filter in mm.
        axial_width: the same along the axis, 0 for independent slices; it needs the distance of slices.
        seed: of all items; another one gives other noise.
        name_keys: keys of the item that together identify its volume.
        exact: draw counts and reconstruct by OSEM, in some seconds a slice, instead of by the fast method; slices are
            then independent.
        spacing: pixel size in mm; from the image's affine by default.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: for values out of range.
    """

    def __init__(
        self,
        keys: KeysCollection,
        drf: float = 12.0,
        counts: float = COUNTS,
        width: float = 5.0,
        axial_width: float = 5.0,
        seed: int = 0,
        name_keys: KeysCollection = VOLUME_KEYS,
        exact: bool = False,
        spacing: float | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.usual = PETLowCount(drf, counts, width, axial_width=0.0 if exact else axial_width)
        self.seed, self.name_keys, self.exact, self.spacing = seed, tuple(name_keys), exact, spacing

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images at low count.

        Raises:
            ValueError: the item has none of ``name_keys``.
        """
        out = dict(data)
        if not any(key in out for key in self.name_keys):
            raise ValueError(f"the item needs a name to draw from: none of {', '.join(map(str, self.name_keys))}.")
        values = {**asdict(self.usual), "seed": seed_of(out, self.name_keys, self.seed)}
        scan = PETLowCount(**values)
        for key in self.key_iterator(out):
            spacing = pixel_spacing(out[key]) if self.spacing is None else self.spacing
            suv = convert_to_tensor(out[key], dtype=torch.float32, track_meta=False)
            numbers = slice_numbers(out, out[key])
            if self.exact:
                low_count = self._exact(suv, spacing, scan, numbers)
            else:
                low_count, _ = insert_pet_noise(suv, None, spacing, scan, numbers, slice_distance(out[key]))
            out[key] = convert_to_dst_type(low_count, out[key], dtype=torch.float32)[0]
        out["pet_low_count"] = values
        return out

    def _exact(self, suv: Tensor, spacing: float, scan: PETLowCount, numbers: Sequence[int]) -> Tensor:
        geometry = PETScan(spacing, scan.counts, scan.width)
        slices = [
            simulate_pet_low_count(one, scan.drf, geometry, slice_generator(scan.seed, number))
            for one, number in zip(suv.unbind(-1) if suv.ndim == 4 else [suv], numbers, strict=True)
        ]
        return torch.stack(slices, dim=-1) if suv.ndim == 4 else slices[0]
