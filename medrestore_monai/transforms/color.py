"""Color and gray: which files are pictures, and gray images for networks that see three channels, and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor, get_track_meta
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

__all__ = ["OriginalChannelsd", "PictureModalityd", "ThreeChannelsd"]

_RECORD = "channels_before"
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npz")
_XRAY = ("CR", "DX")


class PictureModalityd(MapTransform):
    """Note in the meta data of PNG, JPEG and TIFF pictures, of NumPy archives of them and of X-ray images, RGB or GRAY.

    :class:`~medrestore_monai.intensity.ToUnitRanged` then takes the range of the integers in the file. A modality that
    is noted already, from a DICOM header or the user's word, stays; other files get none.

    Args:
        keys: images as :class:`~medrestore_monai.data.LoadImageOrSeriesd` reads them.
        only: refuse everything else, for a model that knows pictures alone.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: on a call, with ``only``, if an image is neither RGB nor GRAY.
    """

    def __init__(self, keys: KeysCollection, only: bool = False, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.only = only

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the notes."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            if "modality" not in image.meta and str(image.meta.get("source", "")).lower().endswith(_PICTURES):
                out[key] = image.clone()
                out[key].meta["modality"] = "RGB" if image.shape[0] == 3 else "GRAY"
            elif image.meta.get("modality") in _XRAY and not self.only:
                out[key] = image.clone()
                out[key].meta["modality"] = "GRAY"
            if self.only and (modality := out[key].meta.get("modality", "no picture")) not in ("RGB", "GRAY"):
                source = Path(str(out[key].meta.get("source", key))).name
                raise ValueError(f"{source} is {modality}: this model is for pictures, as PNG, JPEG or TIFF.")
        return out


class ThreeChannelsd(MapTransform):
    """Repeat gray images to three equal channels; color images stay.

    Add noise before, or the three copies get noise of their own, which no gray image has.

    Args:
        keys: images or volumes, channel first, of one channel or three.
        noted: note in the meta data how many channels there were, for :class:`OriginalChannelsd`; not if the image is
            to count as a color one from now on.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: on a call, for another number of channels.
    """

    def __init__(self, keys: KeysCollection, noted: bool = True, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.noted = noted

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with images of three channels."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = convert_to_tensor(out[key], track_meta=get_track_meta())
            if image.ndim < 3 or image.shape[0] not in (1, 3):
                raise ValueError(f"{key!r} must have 1 channel or 3, got the shape {tuple(image.shape)}.")
            three = image.repeat(3, *(1 for _ in image.shape[1:])) if image.shape[0] == 1 else image
            if self.noted and isinstance(three, MetaTensor):
                three = three.clone()
                three.meta.setdefault(_RECORD, int(image.shape[0]))
            out[key] = three
        return out


class OriginalChannelsd(MapTransform):
    """Average the three channels of a restored image where :class:`ThreeChannelsd` repeated one.

    Args:
        keys: images or volumes, channel first.
        like: key of an image whose meta data say how many channels there were; without a note nothing changes.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection = "pred", like: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.like = like

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with images of as many channels as there were."""
        out = dict(data)
        gray = int(getattr(out.get(self.like), "meta", {}).get(_RECORD, 3)) == 1
        for key in self.key_iterator(out):
            image = convert_to_tensor(out[key], track_meta=get_track_meta())
            out[key] = image.mean(dim=0, keepdim=True) if gray and image.shape[0] == 3 else image
        return out
