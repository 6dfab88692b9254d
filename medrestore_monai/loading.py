"""What lies in a folder, how patients are split, and how one image becomes a tensor.

A patient is the first folder below the data folder, else the file itself: a plain folder of files has one image a
patient, and ``DIR/<patient>/...`` keeps all images of a patient on one side of the split.
"""

import functools
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medrestore_monai.dicom import find_series, read_series
from medrestore_monai.images import read_image

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".png", ".tif", ".tiff", ".npy", ".npz")

Item = dict[str, Any]


def is_image_file(path: Path) -> bool:
    """Tell by its name whether a file is an image that is not DICOM."""
    return path.name.lower().endswith(IMAGE_SUFFIXES)


def find_images(folder: str | os.PathLike[str]) -> list[Item]:
    """List every image file and DICOM series below a folder, in the order of their names.

    A folder with DICOM files in it counts as a whole, with its subfolders.

    Args:
        folder: a folder, or one file.

    Returns:
        Items with ``path`` (an image file, or the folder, file or archive of a DICOM series), ``series_uid`` (empty if
        the series is alone there), ``patient``, ``name``: the path below ``folder``, and ``slices``: how many files the
        series has, 0 where that is not known without reading it.

    Raises:
        ValueError: the folder does not exist or holds no image, or a DICOM file in it is damaged.
        OSError: a folder or file may not be read.
    """
    root = Path(folder)
    if not root.exists():
        raise ValueError(f"there is no file or folder {root}.")
    if root.is_file():
        return [_item(root, root.parent)]
    items = []
    for place, subfolders, names in os.walk(root, onerror=_refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        files = [Path(place) / name for name in names if not name.startswith(".")]
        if any(_is_dicom(path) for path in files):
            subfolders.clear()
            series = find_series(place)
            items += [_item(Path(place), root, one.uid if len(series) > 1 else "", len(one.files)) for one in series]
        else:
            items += [_item(path, root) for path in files if is_image_file(path) or path.suffix.lower() == ".zip"]
    if not items:
        raise ValueError(f"{root} holds no image: no DICOM series, NIfTI, PNG, TIFF or NumPy file.")
    return sorted(items, key=lambda item: (item["name"], item["series_uid"]))


def _refuse(error: OSError) -> None:
    """A folder that may not be read is an error: its patients would be missing without a word."""
    raise error


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _item(path: Path, root: Path, series_uid: str = "", slices: int = 0) -> Item:
    relative = path.relative_to(root)
    patient = relative.parts[0] if relative.parts else root.name
    card = {"patient": patient, "name": str(relative), "slices": slices}
    return {"path": str(path), "series_uid": series_uid, **card}


def split_by_patient(items: Sequence[Item], fraction: float = 0.1, seed: int = 0) -> tuple[list[Item], list[Item]]:
    """Split images for training and validation so that no patient is on both sides.

    Args:
        items: from :func:`find_images`.
        fraction: part of the patients held back, at least one.
        seed: of the draw; the same on every machine.

    Returns:
        Items for training and items held back.

    Raises:
        ValueError: there are fewer than two patients, or ``fraction`` is not in (0, 1).
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be in (0, 1), got {fraction}.")
    patients = sorted({item["patient"] for item in items})
    if len(patients) < 2:
        raise ValueError(f"a split by patient needs two patients or more, got {len(patients)}.")
    held_back = set(random.Random(seed).sample(patients, max(1, round(fraction * len(patients)))))
    training = [item for item in items if item["patient"] not in held_back]
    return training, [item for item in items if item["patient"] in held_back]


def training_slices(
    folder: str | os.PathLike[str], part: str, fraction: float = 0.1, seed: int = 0, key: str = "label"
) -> list[Item]:
    """List the slices of the clean images on one side of the split, as a bundle's data set takes them.

    Args:
        folder: see :func:`find_images`.
        part: ``train``, ``validation`` or ``all``.
        fraction: see :func:`split_by_patient`.
        seed: see :func:`split_by_patient`.
        key: name of the image in the items.

    Returns:
        ``{key: path, "slice": number, "series_uid": ..., "patient": ..., "name": ...}`` for every slice.

    Raises:
        ValueError: as in :func:`find_images` and :func:`split_by_patient`, or ``part`` is none of the three.
    """
    if part not in ("train", "validation", "all"):
        raise ValueError(f"part must be 'train', 'validation' or 'all', got {part!r}.")
    items = find_images(folder)
    if part != "all":
        items = split_by_patient(items, fraction, seed)[part == "validation"]
    slices = []
    for item in items:
        card = {name: value for name, value in item.items() if name != "path"}
        slices += [{key: item["path"], "slice": number, **card} for number in range(_count_slices(item))]
    return slices


def _count_slices(item: Item) -> int:
    path = Path(item["path"])
    if not is_image_file(path):
        return _open_series(path, item["series_uid"], None, False).shape[2]
    if ".nii" in path.name.lower():
        return int((*nib.load(path).shape, 1, 1)[2])  # the header is enough
    array, meta = _open_image(path)
    return 1 if array.ndim == 2 or _is_color(meta) else array.shape[2]


def _is_color(meta: Mapping[str, Any]) -> bool:
    """Tell pictures ``(3, X, Y)`` from volumes ``(X, Y, Z)``."""
    return bool(meta["original_channel_dim"] == 0)


# slices of one volume are asked for one after the other
_open_series = functools.lru_cache(maxsize=2)(
    lambda path, uid, modality, allow_gaps: read_series(path, uid or None, modality, allow_gaps)
)
_open_image = functools.lru_cache(maxsize=1)(read_image)


class LoadImageOrSeriesd(MapTransform):
    """Read an image file or a checked DICOM series into a tensor in physical units, channel first.

    MONAI's ``LoadImaged`` takes the first reader that does not fail and knows neither single slices nor one series of
    several; this chooses by what the path is.

    Args:
        keys: paths; replaced by ``MetaTensor`` s of shape ``(C, X, Y[, Z])``, float32. An item may name one ``slice``,
            which comes as ``(1, X, Y)``; the slices from ``start`` to before ``stop``, if that is above 0; and a
            ``series_uid``, if it is not empty.
        modality: DICOM modality that a series must have; ``None`` for any. Color pictures have none.
        allow_gaps: take a series with missing slices, as single images.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: on a call, if the image cannot be used; the message names it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modality: str | None = None,
        allow_gaps: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.modality = modality
        self.allow_gaps = allow_gaps

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return a copy of ``data`` with paths replaced by images."""
        out = dict(data)
        for key in self.key_iterator(out):
            path, part = Path(out[key]), _part(out)
            if is_image_file(path):
                out[key] = self._load_file(path, part)
            else:
                out[key] = self._load_series(path, out.get("series_uid", ""), part)
            if out.get("slice") is not None and out[key].ndim == 4:
                out[key] = out[key][..., 0]
        return out

    def _load_file(self, path: Path, part: slice | None) -> MetaTensor:
        array, meta = read_image(path) if part is None else _open_image(path)
        if _is_color(meta) and self.modality is not None:
            raise ValueError(f"{path} is a color picture, where {self.modality} is expected.")
        if not _is_color(meta):
            array = (array if part is None or array.ndim == 2 else array[..., part])[None]
        return _tensor(array, meta["affine"], {**meta, "source": str(path)})

    def _load_series(self, path: Path, series_uid: str, part: slice | None) -> MetaTensor:
        if part is None:
            series = read_series(path, series_uid or None, self.modality, self.allow_gaps)
            array = series.slab(0, series.shape[2])[None]
        else:
            series = _open_series(path, series_uid, self.modality, self.allow_gaps)
            array = series.slab(part.start, part.stop)[None]
        meta = {
            "source": str(path),
            "series_uid": series.uid,
            "modality": series.modality,
            "unit": series.unit,
            "allow_gaps": self.allow_gaps,
        }
        return _tensor(array, series.affine, meta)


def _part(item: Mapping[Any, Any]) -> slice | None:
    """Return the slices that an item names, or nothing for all of them."""
    if item.get("slice") is not None:
        return slice(int(item["slice"]), int(item["slice"]) + 1)
    stop = int(item.get("stop", 0))
    return slice(int(item["start"]), stop) if stop > 0 else None


def forget() -> None:
    """Forget the series and image kept open between slices: files may have changed since."""
    _open_series.cache_clear()
    _open_image.cache_clear()


def _tensor(array: np.ndarray, affine: np.ndarray, meta: dict[str, Any]) -> MetaTensor:
    values = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))  # a copy: the array may be kept
    meta = {**meta, "affine": torch.as_tensor(np.asarray(affine, dtype=np.float64))}
    return MetaTensor(values, meta=meta)
