"""What there is to restore in a folder or archive: one study for each DICOM series and each image file."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medrestore_monai.dicom import DicomError, SeriesInfo, find_series
from medrestore_monai.layouts import is_image_file


@dataclass(frozen=True)
class Study:
    """One thing to restore.

    Attributes:
        name: its place below the source, which its result gets below the output; a series that shares its folder or
            archive with others has a name of its own below that, such as ``CT-1f0c9a2e``.
        path: an image file, or the folder or archive that holds the series.
        series_uid: empty for an image file.
        modality: that of the DICOM header, else empty.
        files: how many there are.
        size: of these files together, in bytes.
        shared: other series lie in the same place.
        unfit: why there is nothing to restore in it, which is no failure: a localizer, or another modality.
        problem: why it cannot be restored, where that shows already.
    """

    name: str
    path: Path
    series_uid: str = ""
    modality: str = ""
    files: int = 1
    size: int = 0
    shared: bool = False
    unfit: str = ""
    problem: str = ""


def list_studies(source: str | os.PathLike[str], modalities: Sequence[str] = ()) -> list[Study]:
    """List every DICOM series and every image file of a source, by name.

    A folder with DICOM files in it counts as a whole, with its subfolders, and may hold several series; so may a
    ``.zip`` archive. Hidden files, DICOMDIR files and other kinds of objects are passed over.

    Args:
        source: a folder, a file, or an archive.
        modalities: those that can be restored; series of others are listed as unfit. All, where it is empty.

    Raises:
        ValueError: the source does not exist.
        OSError: the source itself may not be read; what may not be read below it is listed with its problem.
    """
    root = Path(source)
    if not root.exists():
        raise ValueError(f"there is no file or folder {root}.")
    if root.is_file():
        studies = _of_file(root, root.name) if is_image_file(root) else _of_place(root, ".", modalities)
    else:
        os.scandir(root).close()  # the error of a source that may not be read
        studies = [study for place, files in _walk(root) for study in _of_folder(place, files, root, modalities)]
    return _with_own_names(sorted(studies, key=lambda study: study.name))


def _walk(root: Path) -> Iterator[tuple[Path, list[Path] | OSError]]:
    """Every folder with its files, or the error that reading it gave; not below folders that hold DICOM files."""
    refused: list[OSError] = []
    for place, subfolders, names in os.walk(root, onerror=refused.append):
        while refused:
            yield Path(str(refused[0].filename)), refused.pop(0)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        files = [Path(place) / name for name in sorted(names) if not _is_hidden(name)]
        yield Path(place), files
        if any(_is_dicom(file) for file in files):
            subfolders.clear()
    for error in refused:
        yield Path(str(error.filename)), error


def _of_folder(place: Path, files: list[Path] | OSError, root: Path, modalities: Sequence[str]) -> list[Study]:
    if isinstance(files, OSError):
        return [Study(_name(place, root), place, problem=f"{files.strerror}.")]
    if any(_is_dicom(file) for file in files):
        return _of_place(place, _name(place, root), modalities)
    studies = [study for file in files if is_image_file(file) for study in _of_file(file, _name(file, root))]
    for archive in (file for file in files if file.suffix.lower() == ".zip"):
        studies += _of_place(archive, _name(archive.with_suffix(""), root), modalities)
    return studies


def _of_file(file: Path, name: str) -> list[Study]:
    try:
        return [Study(name, file, size=file.stat().st_size)]
    except OSError as error:  # a link that leads nowhere
        return [Study(name, file, problem=f"{error.strerror}.")]


def _of_place(place: Path, name: str, modalities: Sequence[str]) -> list[Study]:
    """The series of a folder or archive, and what of it cannot be read."""
    problems: list[str] = []
    try:
        found = find_series(place, problems)
    except (DicomError, OSError) as error:
        return [Study(name, place, problem=str(error))]
    if problems and len(found) < 2:  # the bad file is one of the series: restoring the rest would hide that
        return [Study(name, place, problem=problems[0])]
    shared = len(found) > 1
    studies = [_of_series(one, place, name, shared, modalities) for one in found]
    return studies + [_unreadable(place, name, problem) for problem in problems]


def _of_series(info: SeriesInfo, place: Path, name: str, shared: bool, modalities: Sequence[str]) -> Study:
    own = f"{info.modality or 'series'}-{_digest(info.uid)}"
    unfit = "a localizer (scout) image" if info.localizer else ""
    if modalities and info.modality not in modalities:
        unfit = f"modality {info.modality or 'unknown'}, where {' or '.join(modalities)} is restored"
    return Study(
        _below(name, own) if shared else name,
        place,
        info.uid,
        info.modality,
        len(info.files),
        sum(file.path.stat().st_size for file in info.files),
        shared,
        unfit,
    )


def _unreadable(place: Path, name: str, problem: str) -> Study:
    return Study(_below(name, f"unreadable-{_digest(problem)}"), place, problem=problem)


def _with_own_names(studies: list[Study]) -> list[Study]:
    """Refuse the second one of two that would have one result."""
    known: set[str] = set()
    result = []
    for study in studies:
        if study.name in known:
            name, problem = f"{study.name}-{_digest(str(study.path))}", f"its result would also be {study.name}."
            study = Study(name, study.path, study.series_uid, problem=problem)
        known.add(study.name)
        result.append(study)
    return result


@contextmanager
def alone(study: Study) -> Iterator[Path]:
    """Give the path of a study without the other series beside it: a folder of links to its files, where need be.

    Raises:
        DicomError: the series is no longer there.
    """
    if not study.shared:
        yield study.path
        return
    problems: list[str] = []  # of other series
    info = next((one for one in find_series(study.path, problems) if one.uid == study.series_uid), None)
    if info is None:
        raise DicomError(f"{study.path.name} no longer holds the series.")
    with tempfile.TemporaryDirectory(prefix="medrestore-") as folder:
        for number, file in enumerate(info.files):
            label = Path(file.label)
            name = label.name if len({Path(other.label).name for other in info.files}) == len(info.files) else ""
            _link(file.path, Path(folder) / (name or f"{number:06d}{label.suffix}"))
        yield Path(folder)


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source.resolve())
    except OSError:  # where links are not allowed
        shutil.copyfile(source, target)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _below(name: str, own: str) -> str:
    return own if name == "." else f"{name}/{own}"


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.upper() == "DICOMDIR"


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:  # told when it is listed
        return False
