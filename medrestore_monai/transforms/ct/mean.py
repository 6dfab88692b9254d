"""The mean HU of the body, which noise does not change: checked after a CT restoration, or kept by it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from medrestore_monai.intensity import INTENSITY_RANGES, scale_from_noted
from medrestore_monai.notes import note

__all__ = ["MeanHUd", "body_mean_shift"]

_BODY = -500.0  # HU: tissue is above, lung and air below
_METAL = INTENSITY_RANGES["CT"].upper  # HU: what is above is not restored
_LEAST = 100  # voxels of a body worth a mean


def body_mean_shift(image: Tensor, restored: Tensor) -> Tensor:
    """By how much a restoration moves the mean of each slice, over the voxels whose input is in -500 to 3072 HU.

    What is above is outside of the networks' range and stays as it is; it would hide by how much the rest moves.

    Args:
        image: input in HU, shape ``(1, X, Y)`` or ``(1, X, Y, Z)``.
        restored: of the same shape, in HU.

    Returns:
        HU, shape ``()`` or ``(Z,)``, float64; 0 for slices with fewer than 100 such voxels.

    Raises:
        ValueError: if the shapes differ, or are neither of the two.
    """
    if image.shape != restored.shape or image.ndim not in (3, 4) or image.shape[0] != 1:
        raise ValueError(
            f"expected two images of one shape (1, X, Y[, Z]), got {tuple(image.shape)} and {tuple(restored.shape)}."
        )
    body = _is_body(image)
    count = body.sum(dim=(0, 1, 2))
    change = torch.where(body, restored.double() - image, 0.0).sum(dim=(0, 1, 2))
    return torch.where(count >= _LEAST, change / count.clamp(min=1), 0.0)


class MeanHUd(MapTransform):
    """Check that a restoration leaves the mean HU of every slice's body where it was, or put it back there.

    For the postprocessing, after ``FromUnitRanged``: the result must be in HU there; the input may still be scaled, as
    the ``intensity_range`` in its meta data says.

    Args:
        keys: the restored images, shape ``(1, X, Y[, Z])``.
        like: the input.
        mode: ``check`` warns of slices whose mean moves by more than ``tolerance``; ``correct`` adds to such slices,
            where the input is in -500 to 3072 HU, what brings the mean back; ``off`` does nothing.
        tolerance: in HU.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: for another mode, or a tolerance below 0.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        like: str = "image",
        mode: str = "check",
        tolerance: float = 2.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if mode not in ("check", "correct", "off"):
            raise ValueError(f"mean_hu must be check, correct or off, got {mode!r}.")
        if not tolerance >= 0:
            raise ValueError(f"the tolerance of the mean must be 0 HU or more, got {tolerance}.")
        self.like, self.mode, self.tolerance = like, mode, float(tolerance)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data``, with corrected images where that is asked for."""
        out = dict(data)
        if self.mode == "off":
            return out
        image = scale_from_noted(out[self.like])
        for key in self.key_iterator(out):
            restored = convert_to_tensor(out[key], track_meta=False)
            shift = body_mean_shift(image, restored)
            beyond = shift.abs() > self.tolerance
            if not beyond.any():
                continue
            self._warn(shift, beyond, out[self.like])
            if self.mode == "correct":
                excess = torch.where(beyond, shift, 0.0)
                moved = torch.where(_is_body(image), restored - excess, restored)
                out[key] = convert_to_dst_type(moved.to(restored.dtype), out[key])[0]
        return out

    def _warn(self, shift: Tensor, beyond: Tensor, image: Any) -> None:
        source = Path(str(getattr(image, "meta", {}).get("source", "the image"))).name
        worst = float(shift.flatten()[shift.abs().argmax()])
        done = "corrected" if self.mode == "correct" else "check the result, or use `mean_hu=correct`"
        note(
            f"{source}: the mean of the body moved by more than {self.tolerance:g} HU in {int(beyond.sum())} of "
            f"{beyond.numel()} slice(s), at most by {worst:+.1f} HU: {done}.",
            stacklevel=2,
        )


def _is_body(image: Tensor) -> Tensor:
    """Where there is tissue: neither air nor metal beyond the networks' range."""
    return (image > _BODY) & (image <= _METAL)
