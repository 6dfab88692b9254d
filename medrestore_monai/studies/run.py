"""Restore every study of a source that was not restored yet, beside any number of other processes that do the same."""

from __future__ import annotations

import errno
import gc
import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from medrestore_monai import __version__
from medrestore_monai.engines.errors import root_cause
from medrestore_monai.files import remove_leftovers
from medrestore_monai.notes import Notes
from medrestore_monai.studies.claims import Claims, started_at
from medrestore_monai.studies.job import Job, check_places, refuse_other_results, shard, state_of
from medrestore_monai.studies.ledger import HIDDEN, Ledger, Record
from medrestore_monai.studies.listing import Study, alone, list_studies
from medrestore_monai.texts import one_line

_MOST_DEATHS = 3
_POLL = 0.5
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Progress:
    """How far all processes are.

    Attributes:
        record: of the study that this process has just dealt with; ``None`` while it waits for others.
        done: studies dealt with since this process began, by whomever.
        total: studies to deal with.
        seconds: since this process began.
    """

    record: Record | None
    done: int
    total: int
    seconds: float


def restore_studies(
    job: Job, studies: Sequence[Study] | None = None, report: Callable[[Progress], None] | None = None
) -> list[Record]:
    """Restore every study that is not done, keep a record of each, and write the manifest.

    A study that fails is recorded, and the rest goes on. Processes with one output share the work: each claims what it
    works on, those of a ``torchrun`` begin at their share of the list, and what a dead process had claimed is done by
    another. The function returns when every study has an outcome, be it from another process.

    Args:
        job: what, and how.
        studies: what :func:`list_studies` found, if it is known already.
        report: called after each study and while waiting.

    Returns:
        One record a study, in the order of the list. ``outcome`` is ``restored``, ``failed`` or ``unfit``.

    Raises:
        ValueError: output and source lie in one another, or a record is damaged.
        FileExistsError: results of other settings are there, or come in from another run, and ``overwrite`` is off.
        OSError: the output cannot be written, or the disk is full.
        RuntimeError: the device failed: nothing more can be done with it.
    """
    studies = list_studies(job.source, job.modalities) if studies is None else studies
    check_places(job, studies)
    ledger = Ledger(job.output)
    before = ledger.read_all()
    states = {study.name: state_of(study, before.get(study.name), job) for study in studies}
    refuse_other_results(job, states)
    run = _Run(job, ledger, before, report)
    try:
        run.note([study for study in studies if states[study.name] in ("unfit", "problem")])
        run.work([study for study in studies if states[study.name] not in ("unfit", "problem", "done")])
        run.claims.release_dead(ledger.key(study.name) for study in studies)
    finally:
        with suppress(OSError):
            ledger.publish()
    records = ledger.read_all()
    return [records[study.name] for study in studies]


def _name_of_run() -> str:
    """One for all processes that a ``torchrun`` started on this machine, else of this process alone."""
    if shard()[1] > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        return f"{socket.gethostname()}:{os.getppid()}:{started_at(os.getppid())}"
    return uuid.uuid4().hex


# what a record tells of a result, and keeps when a later attempt fails
_OF_RESULT = ("source", "series_uid", "settings", "weights_sha256", "software_version", "started", "finished")


class _Run:
    """One process at work on one job."""

    def __init__(
        self, job: Job, ledger: Ledger, before: Mapping[str, Record], report: Callable[[Progress], None] | None
    ) -> None:
        self.job, self.ledger, self.before = job, ledger, before
        self.report = report or (lambda progress: None)
        self.claims = Claims(job.output / HIDDEN / "claims")
        self.name = _name_of_run()
        self.begun, self.stamps = time.monotonic(), ledger.stamps()
        self.loaded = False

    def note(self, studies: Sequence[Study]) -> None:
        """Record what cannot be restored, which shows without work."""
        for study in studies:
            outcome = "unfit" if study.unfit else "failed"
            self._record(study, outcome, study.unfit or study.problem, datetime.now(timezone.utc))

    def work(self, studies: Sequence[Study]) -> None:
        """Restore studies until all have an outcome."""
        rank, size = shard()
        own = [study for index, study in enumerate(studies) if index % size == rank]
        left = own + [study for index, study in enumerate(studies) if index % size != rank]
        while left:
            waiting = []
            for study in left:
                if self._is_settled(study) or self._try(study):
                    self._tell(self.ledger.read(study.name), studies)
                else:
                    waiting.append(study)
            left = waiting
            if left:
                self._tell(None, studies)
                time.sleep(_POLL)

    def _tell(self, record: Record | None, studies: Sequence[Study]) -> None:
        stamps = self.ledger.stamps()
        keys = [self.ledger.key(study.name) for study in studies]
        done = sum(stamps.get(key) != self.stamps.get(key) for key in keys)
        self.report(Progress(record, done, len(studies), time.monotonic() - self.begun))

    def _is_settled(self, study: Study) -> bool:
        """Say whether a study got an outcome in this run, or in another one since this began."""
        record = self.ledger.read(study.name)
        if record is None or (record == self.before.get(study.name) and record["run"] != self.name):
            return False
        return (
            record["run"] == self.name or state_of(study, record, self.job) == "done" or record["outcome"] == "failed"
        )

    def _try(self, study: Study) -> bool:
        """Restore one study, unless another process has it."""
        with self.claims.hold(self.ledger.key(study.name)) as claim:
            if claim is None:
                return False
            if self._is_settled(study):
                return True
            # another run may have begun when this one did
            refuse_other_results(self.job, {study.name: state_of(study, self.ledger.read(study.name), self.job)})
            started, target = datetime.now(timezone.utc), self.job.output / study.name
            if claim.generation > _MOST_DEATHS:
                reason = f"{_MOST_DEATHS} processes died while they restored it."
                self._record(study, "failed", reason, started)
                return True
            begun = self.job.output / HIDDEN / "begun" / claim.key
            ended_early = begun.exists()
            if ended_early or claim.generation > 1:
                remove_leftovers(target, self.job.output)
            replace = self.job.overwrite or self._has_earlier_result(study) or ended_early
            if replace or not target.exists():  # what is there later, without a record, is ours: a kill ended the work
                begun.parent.mkdir(exist_ok=True)
                begun.touch()
            try:
                outcome, reason, notes = self._attempt(study, target, replace)
            except Exception:  # it stops all, but nobody killed it: what comes to be there later is not ours
                begun.unlink(missing_ok=True)
                raise
            owned = self.claims.owns(claim)
            if owned:  # else this was taken for dead: what another process records counts
                self._record(study, outcome, reason, started, notes)
                begun.unlink(missing_ok=True)
            return owned

    def _has_earlier_result(self, study: Study) -> bool:
        return bool(self.before.get(study.name, {}).get("output"))

    def _attempt(self, study: Study, target: Path, overwrite: bool) -> tuple[str, str, list[str]]:
        """Restore one study; its outcome, the reason of a failure, and what is to be noted."""
        outcome, reason = "restored", ""
        with Notes() as notes:
            try:
                with alone(study) as path:
                    self.job.restorer.restore_file(path, target, overwrite=overwrite)
            except Exception as error:
                _raise_what_stops_all(error, target)
                outcome, reason = "failed", _sentence(root_cause(error))
        self._let_go()
        return outcome, reason, [one_line(note) for note in notes.messages]

    def _let_go(self) -> None:
        """Free the volumes that engines hold in cycles; what the first study has loaded is not looked at again."""
        gc.collect()
        if not self.loaded:
            gc.freeze()
            self.loaded = True

    def _record(self, study: Study, outcome: str, reason: str, started: datetime, notes: Sequence[str] = ()) -> None:
        now, output = datetime.now(timezone.utc), self.job.output / study.name
        stays = outcome != "restored" and self._has_earlier_result(study) and output.exists()
        earlier = {}
        if stays:
            notes = [*notes, "The result of an earlier run is still there."]
            before = self.before[study.name]
            earlier = {"earlier": before.get("earlier") or {name: before.get(name) for name in _OF_RESULT}}
        self.ledger.write(
            {
                **earlier,
                "name": study.name,
                "source": str(study.path),
                "series_uid": study.series_uid,
                "modality": study.modality,
                "files": study.files,
                "size": study.size,
                "modified": study.modified,
                "outcome": outcome,
                "reason": reason,
                "notes": list(notes),
                "output": str(output) if outcome == "restored" or stays else "",
                "weights_sha256": self.job.settings.get("weights_sha256", ""),
                "settings": dict(self.job.settings),
                "software_version": __version__,
                "started": started.isoformat(timespec="seconds"),
                "finished": now.isoformat(timespec="seconds"),
                "seconds": round((now - started).total_seconds(), 2),
                "run": self.name,
            }
        )


def _raise_what_stops_all(error: Exception, target: Path) -> None:
    """Let through what would fail every other study too: a full disk, a device that is gone."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            raise OSError(cause.errno, cause.strerror, str(target)) from error
        if isinstance(cause, getattr(torch, "AcceleratorError", ())):
            raise RuntimeError(f"the device failed, its work stops: {one_line(str(cause))[:200]}") from error
        cause = cause.__cause__


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}."
    if isinstance(error, MemoryError):
        return "there is too little memory for it."
    if isinstance(error, ValueError | OSError | RuntimeError):
        return one_line(str(error))
    return f"an unexpected {type(error).__name__}: a mistake in medrestore, please report it."
