"""A lock on an open file, which the operating system releases when its process ends, however it ends."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

__all__ = ["lock_file", "still_there"]

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


def lock_file(file: BinaryIO) -> bool | None:
    """Lock an open file; ``False`` if another process has it, ``None`` if this system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return True


def still_there(path: Path, file: BinaryIO) -> bool:
    """Say whether an open file is the one at ``path``, and was not removed between opening and locking."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
