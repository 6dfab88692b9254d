"""The options of ``medrestore restore`` for several processes: checked before anything is loaded."""

import importlib.util
import os

from medrestore_monai.notes import note


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
        note(f"{scheduler} has no TLS: anyone who reaches it can run code on its workers; see docs/many_studies.md.")
