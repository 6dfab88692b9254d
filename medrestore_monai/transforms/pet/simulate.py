"""Low-count PET that is the same in every run, for validation and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from monai.config import KeysCollection
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from medrestore_monai.transforms.degradation import (
    NumberedDegradationd,
    pixel_spacing,
    slice_distance,
    slice_generator,
)
from medrestore_monai.transforms.pet.low_count import PETLowCount, insert_pet_noise
from medrestore_monai.transforms.pet.noise import COUNTS
from medrestore_monai.transforms.pet.scan import PETScan, simulate_pet_low_count

__all__ = ["SimulatePETLowCountd"]


class SimulatePETLowCountd(NumberedDegradationd):
    """Turn full-count PET slices or volumes into low-count ones, inside a ``FixedDegradationd``.

    Each slice has noise of its own number, which is correlated with that of its neighbors.

    The values used go to ``data["pet_low_count"]``, as in :class:`~medrestore_monai.transforms.RandPETLowCountd`.

    Args:
        keys: whole full-count slices or volumes in SUV, shape ``(1, X, Y[, Z])``.
        drf: dose reduction factor, at least 1.
        counts: coincidences per SUV and mm^2 at full count.
        width: full width at half maximum of the post filter in mm.
        axial_width: the same along the axis, 0 for independent slices; it needs the distance of slices.
        exact: draw counts and reconstruct by OSEM, in some seconds a slice, instead of by the fast method; slices are
            then independent.
        spacing: pixel size in mm; from the image's affine by default.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: for values out of range.
    """

    record = "pet_low_count"

    def __init__(
        self,
        keys: KeysCollection,
        drf: float = 12.0,
        counts: float = COUNTS,
        width: float = 5.0,
        axial_width: float = 5.0,
        exact: bool = False,
        spacing: float | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.usual = PETLowCount(drf, counts, width, axial_width=0.0 if exact else axial_width)
        self.exact, self.spacing = exact, spacing

    def values(self, seed: int) -> dict[str, Any]:
        """Return the fields of :class:`~medrestore_monai.transforms.PETLowCount`."""
        return asdict(replace(self.usual, seed=seed))

    def degraded(self, image: Tensor, numbers: Sequence[int], seed: int) -> Tensor:
        """Return the image at low count."""
        scan = replace(self.usual, seed=seed)
        spacing = pixel_spacing(image) if self.spacing is None else self.spacing
        suv = convert_to_tensor(image, dtype=torch.float32, track_meta=False)
        if self.exact:
            low_count = self._exact(suv, spacing, scan, numbers)
        else:
            low_count, _ = insert_pet_noise(suv, None, spacing, scan, numbers, slice_distance(image))
        degraded: Tensor = convert_to_dst_type(low_count, image, dtype=torch.float32)[0]
        return degraded

    def _exact(self, suv: Tensor, spacing: float, scan: PETLowCount, numbers: Sequence[int]) -> Tensor:
        geometry = PETScan(spacing, scan.counts, scan.width)
        slices = [
            simulate_pet_low_count(one, scan.drf, geometry, slice_generator(scan.seed, number))
            for one, number in zip(suv.unbind(-1) if suv.ndim == 4 else [suv], numbers, strict=True)
        ]
        return torch.stack(slices, dim=-1) if suv.ndim == 4 else slices[0]
