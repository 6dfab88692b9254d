"""What a result takes from the files it is made of: their permissions, and whether they are still the same."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from medrestore_monai.files.checks import DataError
from medrestore_monai.files.scratch import is_scratch

__all__ = ["file_mode", "folder_mode", "refuse_change", "state_of"]


def file_mode(source: Path) -> int:
    """Permissions of a file."""
    return stat.S_IMODE(source.stat().st_mode) & 0o777


def folder_mode(source: Path) -> int:
    """Permissions of a folder of results: those of the folder that a source file lies in, which its owner may change.

    The files of an archive lie in a temporary folder; what may be read of these may be listed.
    """
    folder = Path(os.path.realpath(source)).parent
    mode = file_mode(source)
    return (mode | (mode & 0o444) >> 2 if is_scratch(folder) else file_mode(folder)) | 0o700


def state_of(files: Iterable[Path]) -> str:
    """Digest of the sizes of files and of when they were written: another one means that a file has changed."""
    digest = hashlib.sha256()
    for file in files:
        found = file.stat()
        digest.update(f"{found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def refuse_change(before: str | None, now: str, name: str) -> None:
    """Refuse a result whose source is no longer what it was made of.

    Args:
        before: the state when it was read; ``None`` if that is unknown.
        now: its state.
        name: of the source.

    Raises:
        DataError: they differ.
    """
    if before is not None and before != now:
        raise DataError(f"{name} changed while it was restored, so nothing was written: restore it again.")
