"""Files that are whole at every moment, written by one process of several."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import ignite.distributed as idist
import torch


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside ``path`` and rename it into place at the end: a kill leaves the old file or the new one.

    Raises:
        OSError: the disk is full or read-only; the old file is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(state: object, path: Path) -> None:
    """Save with ``torch.save``, see :func:`replaced`.

    Of several processes that train together, only the first one writes.
    """
    if idist.get_rank() == 0:
        with replaced(path) as file:
            torch.save(state, file)
