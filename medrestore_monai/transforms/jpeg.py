"""Artifacts of lossy compression: an image is stored as 8 bit JPEG and read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from monai.config import KeysCollection
from PIL import Image
from torch import Tensor

from medrestore_monai.transforms.degradation import Degradation, RandDegradationd, plain_slices, range_of

__all__ = ["JPEG", "RandJPEGd", "compress_jpeg"]


def compress_jpeg(image: Tensor, quality: int, lower: float = 0.0, upper: float = 255.0) -> Tensor:
    """Bring ``lower..upper`` to 0..255, round to 8 bit, compress with JPEG, and bring the result back.

    Values outside of the range come through: their part beyond the range is added again. Colors are stored at half of
    the resolution (4:2:0), as is usual. The bytes depend on libjpeg's version only; its fast paths agree bit by bit.

    Args:
        image: gray or RGB, shape ``(1 or 3, X, Y)`` or ``(1 or 3, X, Y, Z)``; each slice of a volume on its own.
        quality: of libjpeg, 1..100; 0 changes nothing, and does not round either.
        lower: value that becomes 0, in the unit of ``image``.
        upper: value that becomes 255.

    Returns:
        The decoded image, same shape and unit, float32 (float64 stays).

    Raises:
        ValueError: the quality or the count of channels is another one, or ``lower`` is not below ``upper``.
    """
    values = plain_slices(image)
    _check(quality, lower, upper)
    if values.shape[0] not in (1, 3):
        raise ValueError(f"JPEG holds 1 or 3 channels, got {values.shape[0]}.")
    if quality == 0:
        return values.clone()
    inside = values.clamp(lower, upper)
    stored = ((inside - lower) * (255 / (upper - lower))).round().to(torch.uint8).cpu().numpy()
    slices = [stored] if stored.ndim == 3 else [stored[..., z] for z in range(stored.shape[-1])]
    decoded = np.stack([_decoded(one, int(quality)) for one in slices], axis=-1).reshape(stored.shape)
    restored = torch.from_numpy(decoded).to(values) * ((upper - lower) / 255) + lower
    return restored + (values - inside)


@dataclass(frozen=True)
class JPEG(Degradation):
    """One drawn compression; see :func:`compress_jpeg`.

    Args:
        quality: of libjpeg, 1..100; 0 changes nothing.
        lower: value that becomes 0, in the unit of the image.
        upper: value that becomes 255.
    """

    quality: int
    lower: float = 0.0
    upper: float = 255.0

    def __call__(self, image: Tensor) -> Tensor:
        """Return the decoded image."""
        return compress_jpeg(image, self.quality, self.lower, self.upper)


class RandJPEGd(RandDegradationd):
    """Compression of random quality; its values go to ``jpeg``.

    Args:
        keys: gray or RGB images, shape ``(1 or 3, X, Y)`` or ``(1 or 3, X, Y, Z)``.
        quality: of libjpeg in 1..100, or a range of it, both ends included.
        lower: value that becomes 0, in the unit of the images.
        upper: value that becomes 255.
        prob: probability to compress at all.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if the range is invalid.
    """

    record, unchanged = "jpeg", JPEG(0)

    def __init__(
        self,
        keys: KeysCollection,
        quality: int | Sequence[int] = (20, 80),
        lower: float = 0.0,
        upper: float = 255.0,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys)
        self.quality, self.lower, self.upper = range_of("quality", quality, 1, 100), float(lower), float(upper)
        for end in self.quality:
            _check(end, self.lower, self.upper)

    def draw(self) -> JPEG:
        """Draw the quality."""
        least, most = map(int, self.quality)
        return JPEG(int(self.R.randint(least, most + 1)), self.lower, self.upper)


def _check(quality: float, lower: float, upper: float) -> None:
    if int(quality) != quality or not 0 <= quality <= 100:
        raise ValueError(f"quality must be a whole number in 1..100, or 0 for no compression, got {quality}.")
    if not lower < upper:
        raise ValueError(f"lower must be below upper, got {lower} and {upper}.")


def _decoded(stored: np.ndarray, quality: int) -> np.ndarray:
    """Compress and read again one picture ``(1 or 3, X, Y)`` of bytes."""
    file = BytesIO()
    rows = stored.T if stored.shape[0] == 3 else stored[0].T  # X is across in a file
    Image.fromarray(np.ascontiguousarray(rows)).save(file, format="JPEG", quality=quality, subsampling="4:2:0")
    back = np.asarray(Image.open(file))
    return np.array(back.T if stored.shape[0] == 3 else back.T[None])
