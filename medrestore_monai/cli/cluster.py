"""The options of ``medrestore restore`` for several processes: checked, and turned into workers."""

import importlib.util
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from medrestore_monai.notes import note

if TYPE_CHECKING:
    from medrestore_monai.restorer import Restorer
    from medrestore_monai.studies import Workers


def refuse_torchrun() -> None:
    """Refuse to be one of the processes of a ``torchrun``, which would all restore the same.

    Raises:
        ValueError: this process is one of several.
    """
    if "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError("torchrun is for training only: share studies among processes by --workers N or --scheduler.")


def check_workers(workers: int, scheduler: str | None) -> None:
    """Refuse options that exclude each other, an address that Dask does not know, and a missing package.

    Raises:
        ValueError: the options cannot be used.
        RuntimeError: ``distributed`` is not installed.
    """
    if scheduler is not None and workers > 1:
        raise ValueError("--workers starts processes here and --scheduler uses running ones: give one of the two.")
    if scheduler is not None and not scheduler.startswith(("tls://", "tcp://")):
        raise ValueError(f"--scheduler must be an address such as tls://host:8786, got {scheduler}.")
    missing = [name for name in ("distributed", "cryptography") if importlib.util.find_spec(name) is None]
    if missing and (scheduler is not None or workers > 1):
        option = "--workers" if scheduler is None else "--scheduler"
        raise RuntimeError(
            f"{option} needs {missing[0]}: install medrestore-monai[cluster], or restore in one process."
        )


def warn_without_tls(scheduler: str) -> None:
    """Note that a scheduler without TLS is open to everyone who reaches it."""
    if scheduler.startswith("tcp://"):
        note(f"{scheduler} has no TLS: anyone who reaches it can run code on its workers; use tls://, see the README.")


def make_workers(open_restorer: "Callable[[], Restorer]", count: int, scheduler: str | None, device: str) -> "Workers":
    """Return the workers for the options; those of this machine divide the threads of one process."""
    import torch

    from medrestore_monai.studies import Workers

    threads = 0 if scheduler else max(1, torch.get_num_threads() // count)
    return Workers(open_restorer, count, scheduler or "", device, threads)
