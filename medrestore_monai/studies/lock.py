"""One client for an output: a lock that the operating system releases when its process ends, however it ends."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from medrestore_monai.files import UsageError, lock_file
from medrestore_monai.notes import note
from medrestore_monai.studies.ledger import HIDDEN


@contextmanager
def lock_output(output: Path, scheduler: str = "") -> Iterator[str]:
    """Lock an output while the block runs, and give the name of this run.

    ``.medrestore/client.json`` names the host, the process and the scheduler. A client that died leaves it behind: it
    is then taken over, with a note.

    Args:
        output: the folder; made if it is not there.
        scheduler: address of the Dask scheduler, if there is one.

    Raises:
        UsageError: another client holds the output.
        OSError: nothing can be written there.
    """
    folder = output / HIDDEN
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    client = folder / "client.json"
    with (folder / "lock").open("ab") as file:
        locked, before = lock_file(file), _read(client)
        if not locked and (before or locked is False):
            remedy = "" if locked is False else f", or remove {client} if that process no longer runs"
            raise UsageError(
                f"{output} is in use by {_describe(before)}: wait for it{remedy}; `workers` shares the work of "
                "one command among processes."
            )
        if before:
            note(f"{output} was left by {_describe(before)}, which ended early: this run continues its work.")
        run = uuid.uuid4().hex
        owner = {"run": run, "host": socket.gethostname(), "pid": os.getpid(), "scheduler": scheduler}
        # in place: a network file system then shows workers the new text when they open the file
        client.write_text(json.dumps({**owner, "started": datetime.now(timezone.utc).isoformat(timespec="seconds")}))
        try:
            yield run
        finally:
            client.write_text("")


def holds(output: Path, run: str) -> bool:
    """Say whether the output is still locked by the client of ``run``: what works for another one must not write."""
    return _read(output / HIDDEN / "client.json").get("run") == run


def _read(client: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(client.read_text()))
    except (OSError, ValueError):
        return {}


def _describe(owner: dict[str, Any]) -> str:
    where = f", scheduler {owner['scheduler']}" if owner.get("scheduler") else ""
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} on {owner.get('host')} (started {owner.get('started')}{where})"
