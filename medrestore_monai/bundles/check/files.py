"""The files of a bundle in a folder or a zip, without following a link, unpacking or running anything."""

import io
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MOST_FILES = 5000
LARGEST_FILE = 2**31  # bytes
LARGEST_TOTAL = 2**32  # bytes
GREATEST_RATIO = 200  # unpacked to packed
_RATIO_FROM = 2**20  # bytes: smaller files may shrink as they like


@dataclass(frozen=True)
class BundleFile:
    """One file of a bundle.

    Args:
        name: path in the bundle, with forward slashes.
        size: in bytes.
        read: returns the content.
    """

    name: str
    size: int
    read: Callable[[], bytes]


class RefusedError(ValueError):
    """A reason to look no further: the name of the file, and why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


def list_files(path: Path) -> tuple[list[BundleFile], list[tuple[str, str]]]:
    """List the files of a bundle.

    Args:
        path: a folder or a zip file.

    Returns:
        The files that can be looked into, and name and reason of those that must not be.

    Raises:
        ValueError: ``path`` is neither, or holds no ``configs/metadata.json``.
        RefusedError: there is too much of it.
    """
    if not path.is_dir() and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is neither a folder nor a zip file.")
    found = list(_in_folder(path) if path.is_dir() else _in_zip(path))
    files = [item for item in found if isinstance(item, BundleFile)]
    if sum(item.size for item in files) > LARGEST_TOTAL:
        raise RefusedError(path.name, f"more than {LARGEST_TOTAL >> 30} GiB in all")
    roots = [PurePosixPath(item.name).parents[1] for item in files if item.name.endswith("configs/metadata.json")]
    if not roots:
        raise ValueError(f"{path} holds no configs/metadata.json: it is no bundle.")
    root = min(roots, key=lambda item: len(item.parts))
    if root.parts:  # a zip holds the bundle's folder as a rule
        files = [BundleFile(_below(item.name, root), item.size, item.read) for item in files]
    return files, [item for item in found if isinstance(item, tuple)]


def _below(name: str, root: PurePosixPath) -> str:
    path = PurePosixPath(name)
    return str(path.relative_to(root)) if path.is_relative_to(root) else name


def _in_folder(root: Path) -> Iterator[BundleFile | tuple[str, str]]:
    count = 0
    for folder, folders, names in os.walk(root, followlinks=False):
        for name in sorted([*folders, *names]):
            path = Path(folder, name)
            short = path.relative_to(root).as_posix()
            mode = path.lstat().st_mode
            count += 1
            if count > MOST_FILES:
                raise RefusedError(root.name, f"more than {MOST_FILES} files")
            if stat.S_ISLNK(mode):
                yield short, "a link, which may lead out of the bundle"
            elif stat.S_ISREG(mode) and path.stat().st_size > LARGEST_FILE:
                yield short, f"more than {LARGEST_FILE >> 30} GiB"
            elif stat.S_ISREG(mode):
                yield BundleFile(short, path.stat().st_size, path.read_bytes)
            elif not stat.S_ISDIR(mode):
                yield short, "neither a file nor a folder"


def _in_zip(path: Path) -> Iterator[BundleFile | tuple[str, str]]:
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if len(entries) > MOST_FILES:
            raise RefusedError(path.name, f"more than {MOST_FILES} files")
        if sum(entry.file_size for entry in entries) > LARGEST_TOTAL:
            raise RefusedError(path.name, f"unpacks to more than {LARGEST_TOTAL >> 30} GiB")
        for entry in entries:
            reason = _zip_reason(entry)
            if names.count(entry.filename) > 1:
                reason = "stands in the zip more than once"
            if reason:
                yield entry.filename, reason
            elif not entry.is_dir():
                yield BundleFile(entry.filename, entry.file_size, _reader(content, entry))


def _zip_reason(entry: zipfile.ZipInfo) -> str:
    name = entry.filename
    parts = PurePosixPath(name).parts
    if name.startswith("/") or "\\" in name or ":" in name or ".." in parts:
        return "a path that leaves the folder it is unpacked in"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "a link, which may lead out of the bundle"
    if entry.flag_bits & 1:
        return "encrypted"
    if entry.file_size > max(_RATIO_FROM, GREATEST_RATIO * entry.compress_size) or entry.file_size > LARGEST_FILE:
        return f"unpacks from {entry.compress_size} to {entry.file_size} bytes"
    return ""


def _reader(content: bytes, entry: zipfile.ZipInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open(entry) as file:
            found = file.read(entry.file_size + 1)
        if len(found) != entry.file_size:
            raise zipfile.BadZipFile("is not of the size in the zip's directory")
        return found

    return read
