"""The files of a folder, regular ones only: opening a pipe waits for ever, and reading a device does not end."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from medrestore_monai.notes import note

__all__ = ["is_regular", "walk"]


def is_regular(path: str | os.PathLike[str]) -> bool:
    """Say whether a path, or what a link leads to, is a regular file, or nothing at all.

    A link that leads nowhere is not special: opening it gives an error that says so.
    """
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def walk(root: Path, onerror: Callable[[OSError], object] | None = None) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk a folder as ``os.walk`` does, but also through links to folders, and into no folder twice.

    Links come last: a folder has its own name where a link leads to it, too. A link to a folder above is not followed.
    Pipes, sockets and devices are passed over, with a note.

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
            yield Path(place), subfolders, _regular(place, names)
            inside = [os.path.join(place, name) for name in subfolders]
            waiting += [folder for folder in inside if os.path.islink(folder)]


def _regular(place: str, names: list[str]) -> list[str]:
    special = {name for name in names if not is_regular(os.path.join(place, name))}
    for name in sorted(special):
        note(f"{os.path.join(place, name)} passed over: it is a pipe, a socket or a device, not a file.", stacklevel=3)
    return [name for name in names if name not in special]
