"""Fewer pixels: what a coarser detector sees, shown on the grid of the finer one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from monai.config import KeysCollection
from torch import Tensor

from medrestore_monai.transforms.degradation import Degradation, RandDegradationd, plain_slices, range_of

__all__ = ["DownSampling", "RandDownSamplingd", "down_sample"]


def down_sample(image: Tensor, factor: int) -> Tensor:
    """Average blocks of ``factor`` x ``factor`` pixels, then interpolate bilinearly between the blocks' middles.

    Grid and geometry stay, so the result lies on the clean image. Where a side is no multiple of ``factor``, the last
    block goes on as the mirror image of what is there ("reflect"). Beyond the middles of the outermost blocks the
    value is that of the block.

    Args:
        image: shape ``(C, X, Y)`` or ``(C, X, Y, Z)``, in any unit; each slice of a volume on its own.
        factor: side of a block in pixels, at most half of the shorter side of the image; 1 changes nothing.

    Returns:
        The coarser image, same shape, float32 (float64 stays), within the range of values of ``image``.

    Raises:
        ValueError: the factor is no whole number in this range, or the image has another shape.
    """
    values = plain_slices(image)
    if int(factor) != factor or not 1 <= factor <= max(1, min(values.shape[1:3]) // 2):
        raise ValueError(
            f"factor must be a whole number in 1..{max(1, min(values.shape[1:3]) // 2)} for an image of "
            f"{values.shape[1]}x{values.shape[2]}, got {factor}."
        )
    if factor == 1:
        return values.clone()
    slices = values[None] if values.ndim == 3 else values.movedim(-1, 0)
    missing = [-size % int(factor) for size in slices.shape[2:]]
    padded = F.pad(slices, (0, missing[1], 0, missing[0]), mode="reflect")
    blocks = F.avg_pool2d(padded, int(factor))
    fine = F.interpolate(blocks, size=padded.shape[2:], mode="bilinear", align_corners=False)
    fine = fine[:, :, : slices.shape[2], : slices.shape[3]]
    return fine[0] if values.ndim == 3 else fine.movedim(0, -1).contiguous()


@dataclass(frozen=True)
class DownSampling(Degradation):
    """One drawn down-sampling; see :func:`down_sample`.

    Args:
        factor: side of the averaged blocks in pixels; 1 changes nothing.
    """

    factor: int

    def __call__(self, image: Tensor) -> Tensor:
        """Return the coarser image."""
        return down_sample(image, self.factor)


class RandDownSamplingd(RandDegradationd):
    """Down-sampling by a random factor; it goes to ``down_sampling``.

    Args:
        keys: images, shape ``(C, X, Y)`` or ``(C, X, Y, Z)``.
        factor: side of the averaged blocks in whole pixels, or a range of it, both ends included.
        prob: probability to down-sample at all.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if the range is invalid, or factors that are not whole numbers.
    """

    record, unchanged = "down_sampling", DownSampling(1)

    def __init__(
        self,
        keys: KeysCollection,
        factor: int | Sequence[int] = (2, 4),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.factor = range_of("factor", factor, 1)
        if any(end != int(end) for end in self.factor):
            raise ValueError(f"factor must be a whole number, got {factor}.")

    def draw(self) -> DownSampling:
        """Draw the factor."""
        least, most = map(int, self.factor)
        return DownSampling(int(self.R.randint(least, most + 1)))
