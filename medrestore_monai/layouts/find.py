"""Which image files and DICOM series lie below a folder.

A patient is the first folder below the data folder, else the file itself: a plain folder of files has one image a
patient, and ``DIR/<patient>/...`` keeps all images of a patient on one side of a split.
"""

import os
from pathlib import Path
from typing import Any

from medrestore_monai.dicom import DicomError, find_series
from medrestore_monai.images import KINDS

IMAGE_SUFFIXES = tuple(KINDS)

Item = dict[str, Any]


def is_image_file(path: Path) -> bool:
    """Tell by its name whether a file is an image that is not DICOM."""
    return path.name.lower().endswith(IMAGE_SUFFIXES)


def without_suffix(name: str) -> str:
    """Return the name of an image without what tells its format: ``p1/a.nii.gz`` becomes ``p1/a``."""
    endings = [suffix for suffix in (*IMAGE_SUFFIXES, ".zip") if name.lower().endswith(suffix)]
    return name[: -max(map(len, endings))] if endings else name


def find_images(folder: str | os.PathLike[str], problems: list[str] | None = None) -> list[Item]:
    """List every image file and DICOM series below a folder, in the order of their names.

    A folder with DICOM files in it counts as a whole, with its subfolders.

    Args:
        folder: a folder, or one file.
        problems: where given, DICOM folders that cannot be read are told here and left out.

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
            items += _series_items(Path(place), root, problems)
        else:
            items += [_item(path, root) for path in files if is_image_file(path) or path.suffix.lower() == ".zip"]
    if not items and not problems:
        raise ValueError(f"{root} holds no image: no DICOM series, NIfTI, PNG, JPEG, TIFF or NumPy file.")
    return sorted(items, key=lambda item: (item["name"], item["series_uid"]))


def _series_items(place: Path, root: Path, problems: list[str] | None) -> list[Item]:
    try:
        series = find_series(place)
    except DicomError as error:
        if problems is None:
            raise
        problems.append(f"{place}: {error}")
        return []
    return [_item(place, root, one.uid if len(series) > 1 else "", len(one.files)) for one in series]


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
