"""Folders that are whole or not there: written aside and renamed into place."""

import errno
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medrestore_monai.walking import walk


class UsageError(ValueError):
    """What was asked for cannot be, whatever the images are: the command line ends with the code of a usage error."""


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
def folder_aside(output: Path, overwrite: bool = False) -> Iterator[Path]:
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
