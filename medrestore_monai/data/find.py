"""Which image files and DICOM series lie below a folder.

A patient is the first folder below the data folder, else the file itself: a plain folder of files has one image a
patient, and ``DIR/<patient>/...`` keeps all images of a patient on one side of a split.
"""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from medrestore_monai.dicom import DicomError, divided_series, find_series
from medrestore_monai.dicom.files import NoImageError, SourceFile, begins_as_dicom
from medrestore_monai.files import walk
from medrestore_monai.images import KINDS
from medrestore_monai.notes import note
from medrestore_monai.other_kinds import way_out

IMAGE_SUFFIXES = tuple(KINDS)
_PARTNERS = {".hdr": ".img", ".img": ".hdr"}
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

Item = dict[str, Any]


def is_image_file(path: Path) -> bool:
    """Return by its name whether a path is that of an image that is not DICOM; a folder never is."""
    # pathlib's is_dir raises where a folder may not be entered
    if not path.name.lower().endswith(IMAGE_SUFFIXES) or os.path.isdir(path):
        return False
    return partner_of(path) is None or os.path.exists(partner_of(path) or "")


def partner_of(path: Path) -> Path | None:
    """The other file of a NIfTI pair; ``None`` for files of other names."""
    ending = _PARTNERS.get(path.suffix.lower())
    return None if ending is None else path.with_suffix(ending if path.suffix.islower() else ending.upper())


def is_second_of_pair(path: Path) -> bool:
    """Return whether a file is the half of a NIfTI pair that its header stands for."""
    return path.suffix.lower() == ".img" and is_image_file(path)


def why_passed_over(path: Path) -> str:
    """Why a file of a folder that looks like an image is not read, with what to do; empty for all other files."""
    if is_image_file(path):
        needed = path.suffix.lower() in (".nrrd", ".mha") and find_spec("SimpleITK") is None
        return "it needs SimpleITK: pip install 'medrestore-monai[itk]'" if needed else ""
    way = "" if is_archive(path) else way_out(path.name)
    return f"not of a kind that is read: {way}" if way else ""


def is_picture(path: Path) -> bool:
    """Return by its name whether a file is a PNG, JPEG or TIFF picture: beside DICOM, most are previews."""
    return path.name.lower().endswith(_PICTURE_SUFFIXES)


def is_archive(path: Path) -> bool:
    """Return by its name whether a path is that of a zip archive, which may hold DICOM series; a folder never is."""
    return path.suffix.lower() == ".zip" and not os.path.isdir(path)


class Folder(NamedTuple):
    """A folder of a walk.

    Attributes:
        path: of the folder.
        files: in it, by name, but for hidden ones.
        dicom: the uppermost folder with DICOM files that it is or lies in, if there is one.
    """

    path: Path
    files: list[Path]
    dicom: Path | None


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def walk_folders(
    root: Path, onerror: Callable[[OSError], object], is_hidden: Callable[[str], bool] = _is_hidden
) -> Iterator[Folder]:
    """Walk through a folder and its subfolders, also through links, but not through hidden ones.

    Args:
        root: a folder.
        onerror: called with the error of a folder that may not be read, or of a file that may be DICOM.
        is_hidden: says by their names which files to leave out.
    """
    whole: set[Path] = set()
    for place, subfolders, names in walk(root, onerror):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        files = [place / name for name in sorted(names) if not is_hidden(name)]
        dicom = next((folder for folder in (place, *place.parents) if folder in whole), None)
        if dicom is None and _hold_dicom(files, onerror):
            whole.add(place)
            dicom = place
        yield Folder(place, files, dicom)


def _hold_dicom(files: list[Path], onerror: Callable[[OSError], object]) -> bool:
    refused = []
    for file in files:
        try:
            if begins_as_dicom(file):
                return True  # what could not be read is reported when the series are looked for
        except OSError as error:
            refused.append(error)
    for unread in refused:
        onerror(unread)
    return False


def without_suffix(name: str) -> str:
    """Return the name of an image without its format: ``p1/a.nii.gz`` becomes ``p1/a``."""
    endings = [suffix for suffix in (*IMAGE_SUFFIXES, ".zip") if name.lower().endswith(suffix)]
    return name[: -max(map(len, endings))] if endings else name


def find_images(folder: str | os.PathLike[str], problems: list[str] | None = None) -> list[Item]:
    """List every image file and DICOM series below a folder, in the order of their names.

    The DICOM files of a folder and its subfolders are looked at together. Pictures (PNG, JPEG, TIFF) and archives
    without a DICOM image are passed over there; a warning names the first picture.

    Args:
        folder: a folder, or one file; links to folders are followed.
        problems: where given, DICOM folders that cannot be read are noted here and left out, as are series of which
            several folders hold parts.

    Returns:
        Items with ``path`` (an image file, or the folder, file or archive of a DICOM series), ``series_uid`` (empty if
        the series is alone there), ``patient``, ``name``: the path below ``folder``, and ``slices``: how many files the
        series has, 0 where that is not known without reading it, and ``size``: their columns and rows.

    Raises:
        ValueError: the folder does not exist or holds no image, a DICOM file in it is damaged, or parts of a series lie
            in several folders.
        OSError: a folder or file may not be read.
    """
    root = Path(folder)
    if not root.exists():
        raise ValueError(f"there is no file or folder {root}.")
    if root.is_file():
        return [_item(root, root.parent)]
    items, series, pictures, others = [], list[tuple[Item, str]](), [], list[Path]()
    for place, files, dicom in walk_folders(root, _refuse):
        if place == dicom:
            series += _series_items(place, root, problems)
        found = [path for path in files if (is_image_file(path) and not is_second_of_pair(path)) or is_archive(path)]
        others += [path for path in files if why_passed_over(path)]
        found = [path for path in found if not why_passed_over(path)]
        if dicom is not None:
            pictures += [path for path in found if is_picture(path)]
            found = [path for path in found if not is_picture(path) and not _is_archive_of_other_things(path)]
        items += [_item(path, root) for path in found]
    items += _without_parts(series, problems)
    if pictures:
        more = f" and {len(pictures) - 1} more" * (len(pictures) > 1)
        note(f"{pictures[0]}{more} passed over: pictures beside DICOM files count as previews.", stacklevel=2)
    _note_others(others)
    if not items and not problems:
        way = f" ({others[0].name}: {why_passed_over(others[0])})" if others else ""
        raise ValueError(
            f"{root} holds no image: no DICOM series, NIfTI, MGZ, NRRD, MHA, PNG, JPEG, TIFF or NumPy file{way}."
        )
    return sorted(items, key=lambda item: (item["name"], item["series_uid"]))


def _note_others(files: list[Path]) -> None:
    """Name files that look like images and are not read, and say what to do about them."""
    ways: dict[str, list[Path]] = {}
    for file in files:
        ways.setdefault(why_passed_over(file), []).append(file)
    for way, found in ways.items():
        more = f" and {len(found) - 1} more" * (len(found) > 1)
        note(f"{found[0]}{more} passed over, {way}.", stacklevel=3)


def _without_parts(series: list[tuple[Item, str]], problems: list[str] | None) -> list[Item]:
    """Leave out, or refuse, series of which several folders hold parts."""
    parts = divided_series((Path(item["path"]), uid) for item, uid in series)
    if parts and problems is None:
        raise ValueError(next(iter(parts.values())))
    if problems is not None:
        problems += dict.fromkeys(parts.values())
    return [item for item, uid in series if (Path(item["path"]), uid) not in parts]


def _series_items(place: Path, root: Path, problems: list[str] | None) -> list[tuple[Item, str]]:
    """The series of a folder, each with its UID."""
    others: list[tuple[SourceFile, str]] = []
    try:
        series = find_series(place, others=others)
    except DicomError as error:
        if problems is None:
            raise
        problems.append(f"{place}: {error}")
        return []
    if others:
        more = f" and {len(others) - 1} more" * (len(others) > 1)
        note(f"{others[0][0].label}{more} passed over: it {others[0][1]}.", stacklevel=3)
    several = len(series) > 1
    return [(_item(place, root, one.uid if several else "", len(one.files), one.size), one.uid) for one in series]


def _refuse(error: OSError) -> None:
    """A folder that may not be read is an error: its patients would be missing without a word."""
    raise error


def _is_archive_of_other_things(path: Path) -> bool:
    if is_archive(path):
        try:
            find_series(path)
        except NoImageError:
            return True
        except DicomError:  # reported when it is read
            return False
    return False


def _item(path: Path, root: Path, series_uid: str = "", slices: int = 0, size: tuple[int, int] = (0, 0)) -> Item:
    relative = path.relative_to(root)
    patient = relative.parts[0] if relative.parts else root.name
    card = {"patient": patient, "name": str(relative), "slices": slices, "size": size}
    return {"path": str(path), "series_uid": series_uid, **card}
