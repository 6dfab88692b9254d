"""What there is to restore in a folder or archive: one study for each DICOM series and each image file."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from medrestore_monai.data import is_archive, is_image_file, is_picture, walk_folders
from medrestore_monai.data.find import is_second_of_pair, partner_of, why_passed_over
from medrestore_monai.dicom import DicomError, SeriesInfo, SourceFile, divided_series, find_series
from medrestore_monai.dicom.files import DICOM_SUFFIXES, NOT_DICOM, NoImageError
from medrestore_monai.files import ScratchFolder
from medrestore_monai.studies.fingerprints import fingerprints

_LONGEST_NAME = 255  # bytes


@dataclass(frozen=True)
class Study:
    """One thing to restore.

    Attributes:
        name: its place below the source, which its result gets below the output; a series that shares its folder or
            archive with others, or that other results will lie below, has a name of its own below that, such as
            ``CT-1f0c9a2e``.
        path: an image file, or the folder or archive that holds the series.
        series_uid: empty for an image file.
        modality: that of the DICOM header, else empty.
        files: how many there are.
        size: of these files together, in bytes.
        modified: when the newest of these files, or the archive, was written, in ns since 1970.
        fingerprints: of all of these files, see :func:`~medrestore_monai.studies.fingerprints.fingerprints`.
        shared: other series or images lie in the same place.
        unfit: why there is nothing to restore in it, which is no failure: a localizer, another modality, a preview.
        problem: why it cannot be restored, where that shows already.
    """

    name: str
    path: Path
    series_uid: str = ""
    modality: str = ""
    files: int = 1
    size: int = 0
    modified: int = 0
    fingerprints: tuple[str, ...] = ()
    shared: bool = False
    unfit: str = ""
    problem: str = ""


def list_studies(source: str | os.PathLike[str], modalities: Sequence[str] = ()) -> list[Study]:
    """List every DICOM series and every image file of a source, by name, each once; links to folders are followed.

    The DICOM files of a folder and its subfolders are looked at together, and may be several series; so may those of a
    ``.zip`` archive. Image files and archives among them are studies of their own. Where there are ``modalities``,
    pictures (PNG, JPEG, TIFF) among them count as previews and are listed as unfit, as are archives without a DICOM
    image. Hidden files, DICOMDIR files and other kinds of objects are passed over. A series of which several folders
    hold parts is listed in each with that problem.

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
        studies = [_of_file(root, root.name)] if is_image_file(root) else _of_place(root, ".", modalities)
    else:
        os.scandir(root).close()  # the error of a source that may not be read
        studies = _of_tree(root, modalities)
    return _with_own_names(sorted(_with_own_folders(studies), key=lambda study: study.name))


def _of_tree(root: Path, modalities: Sequence[str]) -> list[Study]:
    refused: list[OSError] = []
    studies: list[Study] = []
    known: set[tuple[str, Path]] = set()
    mixed = set()  # DICOM folders with other images
    for place, files, dicom in walk_folders(root, refused.append, _is_hidden):
        if place == dicom:
            studies += _of_place(place, _name(place, root), modalities, known=known)
        others = [study for file in files for study in _of_other(file, root, modalities, dicom is not None)]
        if dicom is None:
            others += _not_dicom(place, files, root, refused)
        elif others:
            mixed.add(dicom)
        studies += others
    studies = [replace(study, shared=True) if study.path in mixed else study for study in studies]
    wanted = (study for study in studies if study.series_uid and not study.unfit and study.path.is_dir())
    parts = divided_series((study.path, study.series_uid) for study in wanted)
    studies = [replace(study, problem=parts.get((study.path, study.series_uid), study.problem)) for study in studies]
    for error in refused:
        path = Path(str(error.filename))
        if not is_image_file(path) and not is_archive(path):  # those are listed
            studies.append(Study(_name(path, root), path, problem=f"{error.strerror}."))
    return studies


def _of_other(file: Path, root: Path, modalities: Sequence[str], beside_dicom: bool) -> list[Study]:
    """What an image file or an archive holds; nothing, if the file is neither."""
    if is_archive(file):
        return _of_place(file, _name(file.with_suffix(""), root), modalities, may_be_none=beside_dicom)
    if is_second_of_pair(file):
        return []
    reason = why_passed_over(file)
    if reason:
        return [replace(_of_file(file, _name(file, root)), unfit=reason)]
    if not is_image_file(file):
        return []
    name = file if partner_of(file) is None else file.with_suffix(".nii")  # a pair becomes one file
    study = _of_file(file, _name(name, root))
    if beside_dicom and modalities and is_picture(file):
        study = replace(study, unfit=f"a picture beside DICOM files, where {' or '.join(modalities)} is restored")
    return [study]


def _not_dicom(place: Path, files: Sequence[Path], root: Path, refused: Sequence[OSError]) -> list[Study]:
    """What a folder without DICOM files has in the place of one: a file that only has its ending."""
    unread = {str(error.filename) for error in refused}
    bad = [file for file in files if file.suffix.lower() in DICOM_SUFFIXES and str(file) not in unread]
    return [_unreadable(place, _name(place, root), f"{bad[0].name} is not a DICOM file: {NOT_DICOM}.")] if bad else []


def _of_file(file: Path, name: str) -> Study:
    try:
        pair = (file, partner_of(file) if is_image_file(file) else None)
        found = [(one, one.stat()) for one in pair if one is not None]
    except OSError as error:  # a link that leads nowhere
        return Study(name, file, problem=f"{error.strerror}.")
    return replace(Study(name, file), **_state([(one.name, stat.st_size, stat.st_mtime_ns) for one, stat in found]))


def _of_place(
    place: Path,
    name: str,
    modalities: Sequence[str],
    may_be_none: bool = False,
    known: set[tuple[str, Path]] | None = None,
) -> list[Study]:
    """The series of a folder or archive, and what of it cannot be read.

    Args:
        place: the folder or archive.
        name: of a study that is alone there.
        modalities: those that can be restored.
        may_be_none: it is no failure if it holds no DICOM image.
        known: UIDs and first files of series that are not to be listed again; those found are added.
    """
    problems: list[str] = []
    others: list[tuple[SourceFile, str]] = []
    try:
        found = find_series(place, problems, others)
    except (DicomError, OSError) as error:
        if may_be_none and isinstance(error, NoImageError):
            return [Study(name, place, unfit="an archive without a DICOM image")]
        return [Study(name, place, problem=str(error))]
    if problems and len(found) < 2:  # the bad file is one of the series: restoring the rest would hide that
        return [Study(name, place, problem=problems[0])]
    shared = len(found) > 1
    studies = [_of_series(one, place, name, shared, modalities) for one in found if _is_new(one, known)]
    studies += [_of_other_object(place, name, file, reason) for file, reason in others]
    return studies + [_unreadable(place, name, problem) for problem in problems]


def _is_new(info: SeriesInfo, known: set[tuple[str, Path]] | None) -> bool:
    """Return whether a series was not listed so far, be it through a link to its folder, and note it."""
    if known is None:
        return True
    first = info.files[0].path
    entry = info.uid, first.parent.resolve() / first.name
    new = entry not in known
    known.add(entry)
    return new


def _of_series(info: SeriesInfo, place: Path, name: str, shared: bool, modalities: Sequence[str]) -> Study:
    unfit = "a localizer (scout) image" if info.localizer else ""
    if modalities and info.modality not in modalities:
        unfit = f"modality {info.modality or 'unknown'}, where {' or '.join(modalities)} is restored"
    stats = [file.path.stat() for file in info.files]
    # the files of an archive are unpacked just now
    written = [place.stat()] * len(stats) if info.archive else stats
    triples = zip(info.files, stats, written, strict=True)
    files = [(file.label, stat.st_size, time.st_mtime_ns) for file, stat, time in triples]
    own = _below(name, _own_name(info.modality, info.uid)) if shared else name
    study = Study(own, place, info.uid, info.modality, len(files), shared=shared, unfit=unfit)
    return replace(study, **_state(files))


def _state(files: Sequence[tuple[str, int, int]]) -> dict[str, Any]:
    """What a study says of its files; their names, sizes and times of writing are given."""
    size, modified = sum(size for _, size, _ in files), max(time for _, _, time in files)
    return {"size": size, "modified": modified, "fingerprints": fingerprints(files)}


def _own_name(modality: str, uid: str) -> str:
    # a header may hold anything, such as a path
    return f"{re.sub('[^A-Za-z0-9]', '', modality) or 'series'}-{_digest(uid)}"


def _unreadable(place: Path, name: str, problem: str) -> Study:
    return Study(_below(name, f"unreadable-{_digest(problem)}"), place, problem=problem)


def _of_other_object(place: Path, name: str, file: SourceFile, reason: str) -> Study:
    """A DICOM image of another kind, such as a secondary capture."""
    return replace(_of_file(file.path, _below(name, file.label)), path=place, unfit=f"it {reason}")


def _with_own_folders(studies: Sequence[Study]) -> list[Study]:
    """Give a series a name of its own where the results of other studies will lie in the folder of its result."""
    names = {study.name for study in studies if not (study.unfit or study.problem)}
    above = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    return [
        replace(study, name=_below(study.name, _own_name(study.modality, study.series_uid)))
        if study.name in names and study.name in above and study.series_uid
        else study
        for study in studies
    ]


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
    with ScratchFolder() as place:
        folder = Path(place) / PurePosixPath(study.name).name  # of the result's name, even if it is like that of a file
        folder.mkdir()
        for file, name in zip(info.files, _link_names(info.files), strict=True):
            _link(file.path, folder / name)
        yield folder


def _link_names(files: Sequence[SourceFile]) -> list[str]:
    """Names that errors can call the files of a series by: their own, with their folders where these are not unique."""
    labels = [PurePosixPath(file.label) for file in files]
    for names in ([label.name for label in labels], [re.sub(r"[/\\]", "_", file.label) for file in files]):
        if len(set(names)) == len(names) and all(_is_name(name) for name in names):
            return names
    return [f"{number:06d}{label.suffix}" for number, label in enumerate(labels)]


def _is_name(name: str) -> bool:
    return not name.startswith(".") and len(os.fsencode(name)) <= _LONGEST_NAME


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source.resolve())
    except OSError:  # where links are not allowed
        shutil.copyfile(source, target)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]


def _below(name: str, own: str) -> str:
    return own if name == "." else f"{name}/{own}"


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.upper() == "DICOMDIR"
