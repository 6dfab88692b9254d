"""Ways through folders that follow links, and end."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path


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
