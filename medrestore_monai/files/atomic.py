"""Files and folders that are written aside and take their place at the end, or vanish if anything fails."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from medrestore_monai.files.system_errors import naming
from medrestore_monai.files.workspace import claim

__all__ = ["atomic_file", "atomic_folder", "atomic_result"]


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
        with naming(path):
            with part.open("wb") as file:
                yield file
                _to_disk(file)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_result(path: Path, overwrite: bool = False, mode: int | None = None) -> Iterator[BinaryIO]:
    """Open a file in the workspace of ``path`` that takes its place at the end, or vanishes if anything fails.

    Unlike :func:`atomic_file`, the next run clears away what a killed process left, and one run at a time writes.

    Args:
        path: where the file is to be; folders above it are made.
        overwrite: replace what is there.
        mode: permissions of the file; by default those of a new file.

    Raises:
        UsageError: another run writes ``path``.
        OSError: nothing can be written; the old file is still there.
    """
    with claim(path) as workspace, naming(path):
        made = workspace.new()
        with made.open("wb") as file:
            yield file
            _to_disk(file)
        if mode is not None:
            made.chmod(mode)
        workspace.finish(made, overwrite)


@contextmanager
def atomic_folder(output: Path, overwrite: bool = False, mode: int | None = None) -> Iterator[Path]:
    """Give a folder beside ``output`` to write to, which takes its place at the end, or vanishes if anything fails.

    Args:
        output: where the folder is to be, or a link to it; folders above it are made, and taken away again if anything
            fails.
        overwrite: replace what is there; it stays until the new folder is whole.
        mode: permissions of the folder; by default those of a new one.

    Raises:
        UsageError: another run writes ``output``.
        OSError: nothing can be written, or ``output`` is there, not empty, and not to be replaced.
    """
    with claim(output) as workspace, naming(output):
        made = workspace.new()
        made.mkdir()
        yield made
        if mode is not None:
            made.chmod(mode)
        workspace.finish(made, overwrite)


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
