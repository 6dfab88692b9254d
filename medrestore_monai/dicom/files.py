"""The files of a folder or a zip archive, and which image series they make."""

from __future__ import annotations

import errno
import os
import re
import shutil
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pydicom
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medrestore_monai.dicom.checks import (
    ENHANCED_CLASSES,
    IMAGE_CLASSES,
    DicomError,
    kind_problem,
    known_modality,
    reading,
)
from medrestore_monai.dicom.index import listed_files
from medrestore_monai.files import ScratchFolder, file_mode, naming, require_space, unpack_limit, walk
from medrestore_monai.other_kinds import way_out
from medrestore_monai.stopping import stop_if_asked
from medrestore_monai.texts import printable

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
NOT_DICOM = "export it again, or rename it if it is an image of another kind"
_ITEM = bytes.fromhex("feff00e0")  # that compressed pixel data begin with
_DEFLATED = "1.2.840.10008.1.2.1.99"
_MAX_MEMBERS = 100_000
_LONGEST_FIRST = 1024  # bytes that the first element of a file may have; it is a length, a character set or a type


class NoImageError(DicomError):
    """A place holds no CT, MR or PET image, and nothing that cannot be read either."""


class SourceFile(NamedTuple):
    """A file to read and the name to call it by: its place within the folder or archive the user named.

    Attributes:
        path: of the file.
        label: its name in messages.
        frame: which frame of a multi-frame file, from 0; ``None`` for a file of one frame.
        sop_class: of a multi-frame file, whose frames have headers of another one.
        pixels: where uncompressed pixel data begin, if that is known.
    """

    path: Path
    label: str
    frame: int | None = None
    sop_class: str = ""
    pixels: int | None = None


@dataclass(frozen=True)
class SeriesInfo:
    """One image series among the files found.

    Attributes:
        uid: SeriesInstanceUID.
        modality: ``CT``, ``MR`` or ``PT``; another one if the series cannot be restored.
        description: SeriesDescription.
        files: in no order.
        localizer: all of them are localizer (scout) images.
        size: columns and rows of one of them, 0 where its header has none.
        archive: keeps the unpacked files of an archive until the last series of it is forgotten.
    """

    uid: str
    modality: str
    description: str
    files: tuple[SourceFile, ...]
    localizer: bool = False
    size: tuple[int, int] = (0, 0)
    archive: ScratchFolder | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        count = f"{len(self.files)} file{'s' * (len(self.files) != 1)}"
        return f"{self.modality}, {count}, UID {printable(self.uid, 64)}"


class _Header(NamedTuple):
    """What is needed to group a file."""

    file: SourceFile
    sop_class: str
    series: str
    modality: str
    description: str
    localizer: bool
    size: tuple[int, int]


def find_series(
    path: str | os.PathLike[str], problems: list[str] | None = None, others: list[tuple[SourceFile, str]] | None = None
) -> list[SeriesInfo]:
    """Group the CT, MR and PET image files of a place by series.

    Files that are not DICOM, DICOMDIR files and other kinds of objects (reports, structure sets, segmentations) are
    passed over where there is an image series beside them.

    Args:
        path: a DICOM file, a folder (searched with its subfolders, also through links), a ``.zip`` archive of one, or
            a DICOMDIR, for the files that it lists.
        problems: where given, files and subfolders that cannot be read are noted here and left out.
        others: where given, images of other kinds are noted here, with the reason why they are passed over.

    Returns:
        The series, sorted by description and UID; empty only where ``problems`` says why.

    Raises:
        DicomError: a file cannot be read or is cut short.
        NoImageError: there is no CT, MR or PET image.
        FileNotFoundError: there is no such path.
    """
    path = Path(path)
    files, archive = _list_files(path, problems)
    try:
        return _group(path, files, archive, problems, others)
    except BaseException:
        if archive is not None:
            archive.cleanup()
        raise


def _group(
    path: Path,
    files: list[SourceFile],
    archive: ScratchFolder | None,
    problems: list[str] | None,
    others: list[tuple[SourceFile, str]] | None,
) -> list[SeriesInfo]:
    groups: dict[str, list[_Header]] = {}
    other, unread = "", list[SourceFile]()
    for file in files:
        stop_if_asked()
        header = _read_header(file, file.path == path, problems)
        if header is None:
            unread.append(file)
            continue
        if header.sop_class in (*IMAGE_CLASSES, *ENHANCED_CLASSES):
            groups.setdefault(header.series, []).append(header)
            continue
        reason = kind_problem(header.sop_class, header.modality)
        other = other or f"{file.label} {reason}."
        if others is not None and header.size[1]:
            others.append((file, reason))
    _refuse_lost([header.file for group in groups.values() for header in group], unread, problems)
    if not groups and not problems:
        raise NoImageError(other or f"There is no DICOM image in {path.name or path}.")
    found = [
        SeriesInfo(
            uid,
            group[0].modality,
            group[0].description,
            tuple(header.file for header in group),
            all(header.localizer for header in group),
            group[0].size,
            archive,
        )
        for uid, group in groups.items()
    ]
    return sorted(found, key=lambda series: (series.description, series.uid))


def _refuse_lost(images: list[SourceFile], unread: list[SourceFile], problems: list[str] | None) -> None:
    """Refuse, or note as a problem, what is no DICOM file now and must have been: lost at an end, no hole tells of it.

    Raises:
        DicomError: a file is empty or begins with zeros, and is named like an image beside it.
    """
    named = {_kind_of_name(file) for file in images} - {None}
    alike = [file for file in unread if _kind_of_name(file) in named]
    lost = [file.label for file in alike if not _first_bytes(file).strip(b"\0")]
    if not lost:
        return
    more = f" and {len(lost) - 1} more files are" if len(lost) > 1 else " is"
    text = f"{lost[0]}{more} empty or zeros at the beginning, but named like an image: copy the files again."
    if problems is None:
        raise DicomError(text)
    problems.append(text)


def _kind_of_name(file: SourceFile) -> tuple[str, str] | None:
    """Folder and name of a file without its numbers; nothing for names with a suffix of DICOM, and without a number."""
    place = PurePosixPath(file.label)
    if place.name.lower().endswith(DICOM_SUFFIXES) or not re.search("[0-9]", place.name):
        return None  # those that end so are refused in any case
    hexadecimal = re.fullmatch("[0-9A-Fa-f]+", place.name)
    return str(place.parent), "" if hexadecimal else re.sub("[0-9]+", "0", place.name)


def _first_bytes(file: SourceFile) -> bytes:
    try:
        with file.path.open("rb") as stream:
            return stream.read(132)
    except OSError:  # a problem already
        return b"unread"


def begins_as_dicom(file: Path) -> bool:
    """Return by its first bytes whether a file is DICOM, be it without the preamble.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        head = stream.read(132)
    return head[128:] == b"DICM" or _is_bare(head)


def has_preamble(file: Path) -> bool:
    """Return whether a file says that it is DICOM, as it should.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_file(file: SourceFile, **options: Any) -> FileDataset:
    """Read a DICOM file, also without the preamble; the encoding of one that does not name it is looked at.

    Args:
        file: to be read.
        options: of ``pydicom.dcmread``.

    Raises:
        DicomError: it has compressed pixel data and does not say how.
        Exception: whatever pydicom raises on a damaged file.
    """
    bare = not has_preamble(file.path)
    ds = pydicom.dcmread(str(file.path), force=bare, **options)
    if bare and not ds.file_meta.get("TransferSyntaxUID"):
        implicit, little = (
            ds.original_encoding if hasattr(ds, "original_encoding") else (ds.is_implicit_VR, ds.is_little_endian)
        )
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
        if "PixelData" in ds and bytes(ds.PixelData[:4]) == _ITEM:
            raise DicomError(f"{file.label} is compressed and does not say how: export it again, with its preamble.")
    return ds


def _is_bare(head: bytes) -> bool:
    """Return whether bytes begin with an element of group 0002 or 0008, in explicit or implicit little endian."""
    if len(head) < 8:
        return False
    group, element, length = struct.unpack("<HHI", head[:8])
    if group not in (2, 8) or (element and not dictionary_has_tag((group, element))):
        return False
    vr = dictionary_VR((group, element)) if element else "UL"  # the length of the group
    implicit = group == 8 and (length == 4 if vr == "UL" else length <= _LONGEST_FIRST)
    return implicit or head[4:6] == vr.encode()


def _list_files(path: Path, problems: list[str] | None) -> tuple[list[SourceFile], ScratchFolder | None]:
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}.")
    if path.is_dir():
        refused: list[OSError] = []
        found = [folder / name for folder, _, names in walk(path, refused.append) for name in names]
        unread = [f"{error.filename} cannot be read: {error.strerror}." for error in refused]
        if unread and problems is None:
            raise DicomError(unread[0])
        if problems is not None:
            problems += unread
        return [SourceFile(file, file.relative_to(path).as_posix()) for file in sorted(found)], None
    if path.suffix.lower() == ".zip":
        return _unpack(path)
    file = SourceFile(path, path.name)
    with reading(path.name):
        is_index = has_preamble(path) and _is_index(file)
    if is_index:
        listed = listed_files(path)
        return [SourceFile(one, one.relative_to(path.parent).as_posix()) for one in listed], None
    return [file], None


def _unpack(path: Path) -> tuple[list[SourceFile], ScratchFolder]:
    archive = ScratchFolder()
    try:
        return _unpack_to(Path(archive.name), path), archive
    except BaseException:
        archive.cleanup()
        raise


def _unpack_to(folder: Path, path: Path) -> list[SourceFile]:
    """Unpack an archive under names of our own, bounded in bytes and in members."""
    files = []
    try:
        with zipfile.ZipFile(path) as packed:
            members = [member for member in packed.infolist() if not member.is_dir()]
            limit = unpack_limit(path.stat().st_size)
            total = sum(member.file_size for member in members)
            if total > limit or len(members) > _MAX_MEMBERS:
                raise DicomError(
                    f"{path.name} would unpack to {total / 2**30:.1f} GiB in {len(members)} files, "
                    f"where at most {limit / 2**30:.1f} GiB in {_MAX_MEMBERS} files are accepted."
                )
            require_space(folder, total)
            for number, member in enumerate(members):
                stop_if_asked()
                # names inside an archive are not to be trusted: keep the suffix only, the rest is a label
                name = PurePosixPath(member.filename).name
                target = folder / (f"{number:06d}" + "".join(re.findall(r"\.[A-Za-z]+$", name)).lower())
                with naming(folder), packed.open(member) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
                target.chmod(file_mode(path))
                if not name.startswith("."):
                    files.append(SourceFile(target, member.filename))
    except DicomError:
        raise
    except (zipfile.BadZipFile, RuntimeError) as error:  # RuntimeError: a password, or an unknown method
        raise DicomError(f"{path.name} cannot be unpacked: {error}.") from None
    except Exception as error:  # whatever a method of compression raises
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # of bzip2, and of a wrong offset
            raise
        raise DicomError(f"{path.name} cannot be unpacked: it is damaged; copy it again.") from None
    return files


def _read_header(file: SourceFile, alone: bool, problems: list[str] | None) -> _Header | None:
    """What is needed to group a file; None if it is not a DICOM object, only an index of others, or a problem."""
    try:
        return _group_header(file, alone)
    except DicomError as error:
        if problems is None:
            raise
        problems.append(str(error))
        return None


def _group_header(file: SourceFile, alone: bool) -> _Header | None:
    name = PurePosixPath(file.label).name
    hidden = name.startswith(".") or name.upper() == "DICOMDIR"
    with reading(file.label):
        with file.path.open("rb") as stream:
            head = stream.read(132)
        bare = head[128:] != b"DICM"
        if bare and (hidden or not _is_bare(head)):
            if not hidden and (alone or name.lower().endswith(DICOM_SUFFIXES)):
                raise DicomError(f"{file.label} is not a DICOM file: {way_out(name) or NOT_DICOM}.")
            return None
        if not bare and _is_index(file):
            return None
        tags = ["SOPClassUID", "SeriesInstanceUID", "Modality", "SeriesDescription", "ImageType", "Columns", "Rows"]
        ds = read_file(file, stop_before_pixels=True, specific_tags=tags)
        for keyword in tags[:2]:
            if not ds.get(keyword):
                raise DicomError(
                    f"{file.label} has no {keyword} (cut short or stripped), so its series is unknown; export it again."
                )
        localizer = "LOCALIZER" in [str(value).strip() for value in ds.get("ImageType", None) or []]
        sop_class, series, modality, description = (str(ds.get(keyword) or "") for keyword in tags[:4])
        size = int(ds.get("Columns") or 0), int(ds.get("Rows") or 0)
        return _Header(file, sop_class, series, known_modality(modality), description, localizer, size)


def _is_index(file: SourceFile) -> bool:
    """Return by the file meta information whether a file is a DICOMDIR.

    Raises:
        DicomError: it has no transfer syntax, or one that is not accepted.
    """
    meta = read_file_meta_info(str(file.path))
    if meta.get("MediaStorageSOPClassUID") == _DICOMDIR_CLASS:
        return True
    if meta.get("TransferSyntaxUID") is None:
        raise DicomError(
            f"{file.label} does not say its transfer syntax: it is cut short or damaged; copy or export it again."
        )
    if meta.TransferSyntaxUID == _DEFLATED:
        raise DicomError(
            f"{file.label} is deflated (compressed as a whole), which is not accepted: inflate it with dcmconv +te."
        )
    return False
