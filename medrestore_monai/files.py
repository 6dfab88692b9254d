"""Files and folders: written whole or not at all, checked before, and walked through to an end.

What is written takes a hidden name beside its place and is renamed at the end.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


class UsageError(ValueError):
    """What was asked for cannot be, whatever the images are: the command line ends with the code of a usage error."""


class DataError(ValueError):
    """What came cannot be used, whatever was asked for: the command line ends with the code of bad data."""


def require_writable(output: Path) -> None:
    """Refuse an output that cannot be written, before any work is done for it.

    Args:
        output: a file or folder that is there or not.

    Raises:
        UsageError: a file is where a folder above it has to be.
        OSError: the nearest folder that is there may not be written.
    """
    output = output.absolute()
    folder = next(place for place in (output, *output.parents) if place.exists())
    if not folder.is_dir():
        if folder != output:
            raise UsageError(f"{output} cannot be written: {folder} is a file.")
        folder = output.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        reason = errno.EROFS if _is_read_only(folder) else errno.EACCES
        raise OSError(reason, os.strerror(reason), str(folder))


def _is_read_only(folder: Path) -> bool:
    return hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


@contextmanager
def atomic_file(path: Path, single_writer: bool = False) -> Iterator[BinaryIO]:
    """Open a file beside ``path`` that takes its place at the end, or vanishes if anything fails.

    A process that is killed leaves the old file or the new one.

    Args:
        path: where the file is to be; its folder exists.
        single_writer: no other process writes this file. Its hidden name is then always the same, so that what a
            killed process left is overwritten.

    Raises:
        OSError: the disk is full or read-only; the old file is still there.
    """
    part = path.with_name(f".{path.name}.part" if single_writer else f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(output: Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a folder beside ``output`` to write to, which takes its place at the end, or vanishes if anything fails.

    Args:
        output: where the folder is to be, or a link to it; folders above it are made, and taken away again if anything
            fails.
        overwrite: replace what is there; it stays until the new folder is whole.

    Raises:
        OSError: nothing can be written, or ``output`` is there, not empty, and not to be replaced.
    """
    output = output.resolve()
    missing = [parent for parent in output.parents if not parent.exists()]
    work = output.with_name(f".{output.name}.{uuid.uuid4().hex[:12]}")
    old = work.with_name(work.name + ".old")
    try:
        work.mkdir(parents=True)
        yield work
        if overwrite and output.exists():
            output.rename(old)
        work.rename(output)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if old.exists() and not output.exists():
            old.rename(output)
        shutil.rmtree(work, ignore_errors=True)
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()  # only where nothing was written to it


def refuse_links(source: Path, outputs: Collection[Path]) -> None:
    """Refuse to replace outputs that files of the source lie in, by way of links.

    Args:
        source: a file or a folder.
        outputs: files and folders that are to be replaced.

    Raises:
        ValueError: it is so.
    """
    if not outputs:
        return
    places = {output.resolve(): output for output in outputs}
    inside = (place / name for place, _, names in walk(source) for name in names)
    for file in inside if source.is_dir() else (source,):
        real = file.resolve()
        for place in places.keys() & {real, *real.parents}:
            message = f"The output {places[place]} holds the source's {file.name}, by a link; name another output."
            raise ValueError(message)


def walk(root: Path, onerror: Callable[[OSError], object] | None = None) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk a folder as ``os.walk`` does, but also through links to folders, and into no folder twice.

    Links come last: a folder has its own name where a link leads to it, too. A link to a folder above is not followed.

    Args:
        root: a folder, or a link to one.
        onerror: called with the error of a folder that may not be read.

    Yields:
        A folder, the names of its subfolders, of which the caller may remove some, and those of its files.
    """
    seen = {str(folder) for folder in Path(os.path.realpath(root)).parents}
    waiting = [str(root)]
    while waiting:
        for place, subfolders, names in os.walk(waiting.pop(0), onerror=onerror):
            real = os.path.realpath(place)
            if real in seen:
                subfolders.clear()
                continue
            seen.add(real)
            yield Path(place), subfolders, names
            inside = [os.path.join(place, name) for name in subfolders]
            waiting += [folder for folder in inside if os.path.islink(folder)]
