"""Who works on what: claim files in a folder that processes share, of one machine or of several.

A claim is a file ``<key>.<generation>``, and the highest generation counts. Taking over from a dead process makes the
next generation, which only one process can create, so that nothing is ever deleted to be taken over. A process on the
same machine is dead when the system says so; one elsewhere, when it has not touched its claim for a while.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

STALE_AFTER = 300.0
_BEAT = 15.0


class Claim(NamedTuple):
    """A claim that this process holds.

    Attributes:
        key: what is claimed.
        generation: 1, or more where processes died over it.
    """

    key: str
    generation: int


class Claims:
    """Claims of this process in one folder.

    Args:
        folder: made if it is not there; on a file system that all processes share.
        stale_after: seconds after which the claim of another machine's process is dead if it was not touched.
    """

    def __init__(self, folder: Path, stale_after: float = STALE_AFTER) -> None:
        self.folder = folder
        self.stale_after = stale_after
        self._beat = min(_BEAT, stale_after / 4)
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def hold(self, key: str) -> Iterator[Claim | None]:
        """Claim ``key`` while the block runs; ``None`` where a living process has it.

        Whoever gets a claim must look again whether the work was done meanwhile.
        """
        claim = self._acquire(key)
        if claim is None:
            yield None
            return
        done = threading.Event()
        heart = threading.Thread(target=self._touch, args=(self._path(claim), done), daemon=True)
        heart.start()
        try:
            yield claim
        finally:
            done.set()
            heart.join()
            if self.owns(claim):
                self._release(claim)

    def release_dead(self, keys: Iterable[str]) -> None:
        """Take away what dead processes still claim of work that is done."""
        present = {path.stem for path in self.folder.glob("[!.]*")}
        for key in present.intersection(keys):
            with self.hold(key):
                pass

    def owns(self, claim: Claim) -> bool:
        """Say whether no other process has taken the claim over."""
        return self._generation(claim.key) == claim.generation

    def _acquire(self, key: str) -> Claim | None:
        last = self._generation(key)
        if last and not self._is_dead(self._path(Claim(key, last))):
            return None
        claim = Claim(key, last + 1)
        try:
            descriptor = os.open(self._path(claim), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return None
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({**_machine(), "pid": os.getpid(), "started": started_at(os.getpid())}, file)
            file.flush()
            os.fsync(file.fileno())
        return claim

    def _release(self, claim: Claim) -> None:
        for generation in range(1, claim.generation + 1):
            self._path(Claim(claim.key, generation)).unlink(missing_ok=True)

    def _path(self, claim: Claim) -> Path:
        return self.folder / f"{claim.key}.{claim.generation}"

    def _generation(self, key: str) -> int:
        """The highest generation of claims, 0 if there is none."""
        return max((int(path.suffix[1:]) for path in self.folder.glob(f"{key}.*")), default=0)

    def _is_dead(self, path: Path) -> bool:
        try:
            owner = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False  # released just now
        except (OSError, ValueError):
            owner = {}  # just being written, or its process died there
        machine = _machine()
        if machine and machine == {name: owner.get(name) for name in machine}:
            return bool(started_at(int(owner["pid"])) != owner["started"])
        return self._age(path) > self.stale_after

    def _age(self, path: Path) -> float:
        """Seconds since a file was touched, by the clock of the file system: those of machines may differ."""
        now = self.folder / f".now-{uuid.uuid4().hex}"
        try:
            now.touch()
            return now.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            now.unlink(missing_ok=True)

    def _touch(self, path: Path, done: threading.Event) -> None:
        while not done.wait(self._beat):
            with suppress(OSError):
                os.utime(path)


def _machine() -> dict[str, Any]:
    """What tells where process numbers mean the same; empty where the system does not tell of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return {"host": socket.gethostname(), "boot": boot, "processes": os.readlink("/proc/self/ns/pid")}
    except OSError:
        return {}


def started_at(pid: int) -> str | None:
    """When a process of this machine started, in ticks; ``None`` if it runs no more."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name of the program may hold anything
    return None if fields[0] in ("Z", "X") else fields[19]
