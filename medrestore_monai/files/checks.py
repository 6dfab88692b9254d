"""What is refused before any work: outputs that cannot be written, or that hold the source."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from medrestore_monai.files.walks import walk

__all__ = ["DataError", "UsageError", "refuse_links", "require_space", "require_writable"]


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
    folder = _nearest(output)
    if not folder.is_dir():
        if folder != output:
            raise UsageError(f"{output} cannot be written: {folder} is a file.")
        folder = output.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        reason = errno.EROFS if _is_read_only(folder) else errno.EACCES
        raise OSError(reason, os.strerror(reason), str(folder))


def require_space(place: Path, size: int) -> None:
    """Refuse to write more bytes than the disk of a place has room for.

    Args:
        place: a file or folder that is there or not.
        size: bytes.

    Raises:
        OSError: the room is too little; the message names the folder.
    """
    folder = _nearest(place.absolute())
    free = shutil.disk_usage(folder).free
    if size > free:
        words = f"{os.strerror(errno.ENOSPC)} ({size / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free)"
        raise OSError(errno.ENOSPC, words, str(folder))


def _nearest(place: Path) -> Path:
    return next(one for one in (place, *place.parents) if one.exists())


def _is_read_only(folder: Path) -> bool:
    return hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def refuse_links(source: Path, outputs: Collection[Path]) -> None:
    """Refuse to replace outputs that files of the source lie in, by way of links, symbolic or hard.

    Args:
        source: a file or a folder.
        outputs: files and folders that are to be replaced.

    Raises:
        UsageError: it is so.
    """
    if not outputs:
        return
    places = {output.resolve(): output for output in outputs}
    linked = {(stat.st_dev, stat.st_ino): output for output in outputs for stat in _several_names(output)}
    for file in _files_of(source):
        real = file.resolve()
        held = next((places[place] for place in places.keys() & {real, *real.parents}), None)
        if held is None and linked:
            stat = real.stat()
            held = linked.get((stat.st_dev, stat.st_ino))
        if held is not None:
            raise UsageError(f"The output {held} holds the source's {file.name}, by a link; name another output.")


def _files_of(place: Path) -> Iterator[Path]:
    if not place.is_dir():
        return iter((place,))
    return (folder / name for folder, _, names in walk(place) for name in names)


def _several_names(output: Path) -> Iterator[os.stat_result]:
    """The files of an output that have another name somewhere."""
    for file in _files_of(output):
        if file.exists() and (stat := file.stat()).st_nlink > 1:
            yield stat
