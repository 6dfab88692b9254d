"""The hidden folder beside an output: one run at a time works in it, and the next one clears up after a killed one."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from medrestore_monai.files.checks import UsageError
from medrestore_monai.files.lock import lock_file, still_there
from medrestore_monai.files.system_errors import naming

__all__ = ["Workspace", "claim", "recover"]

_LONGEST_NAME = 255  # bytes
_LOCK = "lock"
_ATTEMPTS = 100  # other runs may remove the folder between two steps


class Workspace:
    """A claimed output.

    Attributes:
        output: where the result is to be.
        folder: for what is not finished, on the file system of the output, for this user alone.
    """

    def __init__(self, output: Path, folder: Path) -> None:
        self.output, self.folder = output, folder

    def new(self) -> Path:
        """Return the place, in an empty folder, where the result is made."""
        shutil.rmtree(self.folder / "new", ignore_errors=True)
        place = self.folder / "new" / self.output.name
        place.parent.mkdir()
        return place

    def finish(self, made: Path, overwrite: bool) -> None:
        """Put what was made into the place of the output; an earlier result stays until then.

        Raises:
            OSError: ``output`` is there, and not to be replaced.
        """
        if overwrite and os.path.lexists(self.output):
            old = self._old()
            old.parent.mkdir(exist_ok=True)
            self.output.rename(old)
        made.rename(self.output)

    def put_back(self) -> None:
        """Put the earlier result back where no new one has taken its place, and remove everything else."""
        old = self._old()
        if os.path.lexists(old) and not os.path.lexists(self.output):
            old.rename(self.output)
        for entry in os.scandir(self.folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name != _LOCK:
                os.unlink(entry.path)

    def _old(self) -> Path:
        return self.folder / "old" / self.output.name


# by this thread
_held: ContextVar[Mapping[Path, Workspace]] = ContextVar("held", default=MappingProxyType({}))


@contextmanager
def claim(output: Path) -> Iterator[Workspace]:
    """Claim an output: no other run may write it until the end of the block, where its workspace is removed.

    What a killed run left is cleared away first, and its earlier result is put back. Folders above the output are made,
    and taken away again where nothing was written to them. Blocks may be nested: the inner one is part of the outer.

    Args:
        output: a file or folder that is there or not, or a link to it.

    Raises:
        UsageError: another run works on this output.
        OSError: nothing can be written beside it.
    """
    output = output.resolve()
    outer = _held.get()
    if output in outer:
        yield outer[output]
        return
    missing = [parent for parent in output.parents if not parent.exists()]
    try:
        with naming(output):
            output.parent.mkdir(parents=True, exist_ok=True)
        workspace = Workspace(output, _folder_of(output))
        with _locked(workspace):
            token = _held.set({**outer, output: workspace})
            try:
                workspace.put_back()
                yield workspace
            finally:
                _held.reset(token)
                workspace.put_back()
                shutil.rmtree(workspace.folder, ignore_errors=True)
    finally:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()  # only where nothing was written to it


def recover(output: Path) -> None:
    """Clear away what a killed run left beside an output, and put its earlier result back.

    Raises:
        UsageError: another run works on this output.
    """
    output = output.resolve()
    if output not in _held.get() and _folder_of(output).is_dir():
        with claim(output):
            pass


def _folder_of(output: Path) -> Path:
    name = f".{output.name}.medrestore"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(output.name)).hexdigest()[:32]}.medrestore"
    return output.with_name(name)


@contextmanager
def _locked(workspace: Workspace) -> Iterator[None]:
    """Make the folder of a workspace and hold its lock."""
    path = workspace.folder / _LOCK
    for _ in range(_ATTEMPTS):
        with naming(workspace.output):
            workspace.folder.mkdir(mode=0o700, exist_ok=True)
        known = path.exists()
        try:
            file: BinaryIO = path.open("ab")
        except FileNotFoundError:
            continue
        with file:
            locked = lock_file(file)
            if locked is False or (locked is None and known):
                remedy = "" if locked is False else f", or remove {workspace.folder} if no run does"
                raise UsageError(f"another run writes {workspace.output}: wait for it, or name another output{remedy}.")
            if still_there(path, file):
                yield
                return
    raise OSError(f"{workspace.folder} cannot be kept: other runs remove it again and again.")
