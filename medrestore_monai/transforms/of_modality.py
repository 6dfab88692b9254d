"""Steps that are for images of one modality, in the configuration of a bundle that restores several."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from monai.transforms import RandomizableTrait, Transform

from medrestore_monai.intensity import modality_of

__all__ = ["OfModalityd"]


class OfModalityd(Transform):
    """Apply a transform to the items whose image is of one modality; others pass unchanged.

    The modality is the one in the meta data of the image, from a DICOM header or the user's word.

    Args:
        modality: such as ``MR``, a key of :data:`~medrestore_monai.intensity.INTENSITY_RANGES`.
        transform: takes and returns an item; not a random one, since data sets may cache what this makes.
        like: key of the image.

    Raises:
        TypeError: the transform draws at random.
        ValueError: on a call, if the modality of the image is not known.
    """

    def __init__(
        self,
        modality: str,
        transform: Callable[[Mapping[Hashable, Any]], dict[Hashable, Any]],
        like: str = "image",
    ) -> None:
        if isinstance(transform, RandomizableTrait):
            raise TypeError(f"transform must not draw at random, got {type(transform).__name__}.")
        self.modality, self.transform, self.like = modality, transform, like

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data``, transformed where it is of the modality."""
        if modality_of(data.get(self.like), self.like) != self.modality:
            return dict(data)
        return self.transform(data)
