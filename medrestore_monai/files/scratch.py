"""Temporary folders that the next run clears away if their process was killed."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from medrestore_monai.files.lock import lock_file, still_there

__all__ = ["ScratchFolder", "clear_scratch", "is_scratch"]

_PREFIX = "medrestore-run-"
_LOCK = ".lock"
_YOUNG = 60  # seconds in which a process makes its lock


class ScratchFolder(tempfile.TemporaryDirectory):
    """A temporary folder for this user alone, which is locked as long as its process runs."""

    def __init__(self) -> None:
        clear_scratch()
        while True:
            super().__init__(prefix=_PREFIX)
            path = Path(self.name) / _LOCK
            self._lock = path.open("ab")
            # a process that clears up may have been faster
            if lock_file(self._lock) is not False and still_there(path, self._lock):
                break
            self._lock.close()
            self.cleanup()

    def cleanup(self) -> None:
        """Remove it."""
        super().cleanup()
        self._lock.close()


def clear_scratch() -> None:
    """Remove the temporary folders of this user's processes that were killed."""
    with suppress(OSError):
        for entry in os.scandir(tempfile.gettempdir()):
            with suppress(OSError):
                if entry.name.startswith(_PREFIX) and _is_own(entry.stat(follow_symlinks=False)):
                    _clear(Path(entry.path))


def is_scratch(folder: Path) -> bool:
    """Say whether a folder is such a temporary folder, or lies in one."""
    return any(place.name.startswith(_PREFIX) for place in (folder, *folder.parents))


def _is_own(stat: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or stat.st_uid == os.getuid()


def _clear(folder: Path) -> None:
    if folder.is_symlink() or not folder.is_dir():
        return
    try:
        file = (folder / _LOCK).open("rb")
    except FileNotFoundError:
        if time.time() - folder.stat().st_mtime > _YOUNG:
            folder.rmdir()  # only where it is empty
        return
    with file:
        if lock_file(file):
            shutil.rmtree(folder, ignore_errors=True)
