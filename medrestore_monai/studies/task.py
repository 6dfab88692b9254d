"""One study of many: restored in a temporary folder, then moved into its place with its record, once."""

from __future__ import annotations

import errno
import gc
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import torch

from medrestore_monai import __version__
from medrestore_monai.audit.writing import audit_restoration, write_audit
from medrestore_monai.engines.errors import root_cause
from medrestore_monai.notes import Notes, note
from medrestore_monai.restorer import Restored, Restorer
from medrestore_monai.stopping import stop_if_asked
from medrestore_monai.studies.job import Job, settings_of
from medrestore_monai.studies.ledger import HIDDEN, Ledger, Record
from medrestore_monai.studies.listing import Study, alone
from medrestore_monai.studies.lock import holds
from medrestore_monai.studies.reports import place_report
from medrestore_monai.texts import one_line, sentence_of

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_OF_RESULT = ("source", "series_uid", "settings", "weights_sha256", "software_version", "started", "finished")


@dataclass(frozen=True)
class Task:
    """One study to restore.

    Attributes:
        study: with a path that workers can read.
        output: of all studies, as workers can write to it.
        replace: an existing result may be replaced.
        run: the name of this run.
        record: what is known before the outcome.
        earlier: how the result of an earlier run was made, if there is one.
        report: audit the result, too.
        is_done: there is a result, which lacks nothing but its report.
    """

    study: Study
    output: Path
    replace: bool
    run: str
    record: Record = field(repr=False)
    earlier: Mapping[str, Any] = field(repr=False)
    report: bool = False
    is_done: bool = False

    @property
    def target(self) -> Path:
        """Where the result goes."""
        return self.output / self.study.name

    def done(self) -> Record | None:
        """Return the record that this run already has of the study, if it is finished."""
        record = Ledger(self.output).read(self.study.name)
        if record is None or record["run"] != self.run:
            return None
        return record if record["outcome"] != "restored" or self.target.exists() else None

    def finished(self, outcome: str, reason: str, started: datetime, notes: Sequence[str] = ()) -> Record:
        """Return the record with the outcome."""
        now = datetime.now(timezone.utc)
        stays = outcome != "restored" and bool(self.earlier) and self.target.exists()
        if stays:
            notes = [*notes, "The result of an earlier run is still there."]
        return {
            **({"earlier": dict(self.earlier)} if stays else {}),
            **self.record,
            "outcome": outcome,
            "reason": reason,
            "notes": list(notes),
            "output": self.record["output"] if outcome == "restored" or stays else "",
            "started": started.isoformat(timespec="seconds"),
            "finished": now.isoformat(timespec="seconds"),
            "seconds": round((now - started).total_seconds(), 2),
        }

    def give_up(self, reason: str) -> Record:
        """Record that the study cannot be restored, unless this run has restored it, and return the record."""
        done = self.done()
        if done is None:
            done = self.finished("unfit" if self.study.unfit else "failed", reason, datetime.now(timezone.utc))
            Ledger(self.output).write(done)
        return done


def make_task(job: Job, study: Study, before: Record | None, run: str) -> Task:
    """Return the task of one study; its paths are absolute, for workers have other working folders."""
    before = before or {}
    record = _new_record(study, job.output / study.name, job.settings, run)
    earlier: dict[str, Any] = {}
    if before.get("output"):
        earlier = before.get("earlier") or {name: before.get(name) for name in _OF_RESULT}
    here = replace(study, path=study.path.absolute())
    return Task(here, job.output.absolute(), job.overwrite or bool(earlier), run, record, earlier, job.report)


def _new_record(study: Study, output: Path, settings: Mapping[str, Any], run: str) -> Record:
    """Return what is known of a study before it is restored."""
    return {
        "name": study.name,
        "source": str(study.path.absolute()),
        "series_uid": study.series_uid,
        "modality": study.modality,
        "files": study.files,
        "size": study.size,
        "modified": study.modified,
        "fingerprints": list(study.fingerprints),
        "outcome": "",
        "reason": "",
        "notes": [],
        "output": str(output),
        "weights_sha256": settings.get("weights_sha256", ""),
        "settings": dict(settings),
        "software_version": __version__,
        "started": "",
        "finished": "",
        "seconds": 0.0,
        "run": run,
    }


def records_of(result: Restored, listed: Sequence[Study], restorer: Restorer) -> list[Record]:
    """Return the records of images that were restored without a manifest, with the fields of those in one.

    Args:
        result: what :meth:`~medrestore_monai.restorer.Restorer.restore_file` returned.
        listed: what :func:`~medrestore_monai.studies.list_studies` finds in its source.
        restorer: that restored it.
    """
    finished, settings, run = datetime.now(timezone.utc), settings_of(restorer), uuid.uuid4().hex
    known = {study.path: study for study in listed if not study.unfit}
    times = {
        "started": (finished - timedelta(seconds=result.seconds)).isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "seconds": round(result.seconds, 2),
    }
    outcome = {"outcome": "restored", "notes": [one_line(message) for message in result.notes], **times}
    return [
        {**_new_record(known.get(source, Study(source.name, source)), output, settings, run), **outcome}
        for source, output in zip(result.sources, result.outputs, strict=True)
    ]


def aside_folder(output: Path) -> Path:
    """Where results lie until they are whole; it holds nothing else and may be removed between runs."""
    return output / HIDDEN / "unfinished"


def restore_study(task: Task, restorer: Restorer, is_wanted: Callable[[], bool] = lambda: True) -> Record:
    """Restore one study, write its record and return it; a study that this run has already finished stays.

    Args:
        task: the study.
        restorer: restores it.
        is_wanted: asked before anything is written in place: says whether the client still waits for it.

    Raises:
        OSError: the disk is full.
        RuntimeError: the device failed, the client is gone, or another one has taken over the output.
    """
    stop_if_asked()
    done = task.done()
    if done is not None:
        return done
    if task.is_done:
        return _report_alone(task, restorer, is_wanted)
    started, result = datetime.now(timezone.utc), aside_folder(task.output) / uuid.uuid4().hex / task.target.name
    try:
        with Notes(alone=True) as notes:  # the record hands them on
            reason = _attempt(task, restorer, result)
        noted = [one_line(message) for message in notes.messages]
        _require_client(task, is_wanted)
        if not reason:
            try:
                return task.done() or _place(task, result, task.finished("restored", "", started, noted))
            except OSError as error:
                raise_what_stops_all(error, task.target)
                reason = _sentence(error)
        record = task.finished("failed", reason, started, noted)
        Ledger(task.output).write(record)
        return record
    finally:
        shutil.rmtree(result.parent, ignore_errors=True)
        _release_memory()


def _attempt(task: Task, restorer: Restorer, result: Path) -> str:
    """Restore a study to ``result``; the reason if that failed."""
    try:
        if task.target.exists() and not task.replace:
            raise FileExistsError(f"{task.record['output']} exists, and is not of an earlier run.")
        result.parent.mkdir(parents=True)
        with alone(task.study) as path:
            restorer.restore_file(path, result)
            if task.report:
                _write_report(task, restorer, path, result, _made_report(result))
    except Exception as error:
        raise_what_stops_all(error, task.target)
        return _sentence(root_cause(error))
    return ""


def _made_report(result: Path) -> Path:
    """Where the report of a result lies until it is put into place."""
    return result.parent / "report" / result.name


def _write_report(task: Task, restorer: Restorer, source: Path, result: Path, folder: Path) -> None:
    """Audit a result; what cannot be audited is noted, and the result stays."""
    try:
        folder.parent.mkdir(parents=True)
        write_audit(audit_restoration(restorer, source, result), folder)
    except Exception as error:
        raise_what_stops_all(error, task.target)
        note(f"there is no report: {_sentence(root_cause(error))}")


def _report_alone(task: Task, restorer: Restorer, is_wanted: Callable[[], bool]) -> Record:
    """Audit a result of an earlier run, and return its record."""
    folder = aside_folder(task.output) / uuid.uuid4().hex / task.target.name
    try:
        with Notes() as notes, alone(task.study) as path:
            _write_report(task, restorer, path, task.target, folder)
        _require_client(task, is_wanted)
        place_report(task.output, task.study.name, folder)
        record = Ledger(task.output).read(task.study.name) or task.record
        return {**record, "notes": [one_line(message) for message in notes.messages]}
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)
        _release_memory()


def _require_client(task: Task, is_wanted: Callable[[], bool]) -> None:
    if not (holds(task.output, task.run) and is_wanted()):
        raise RuntimeError(f"the command has ended, or another one has taken over {task.output}: this one stops.")


def _place(task: Task, result: Path, record: Record) -> Record:
    """Put a result and its record into place.

    The record comes first, and the earlier result goes before: a process that is killed in between leaves a record
    without a result, which counts as not restored, and never the record of one result with another.
    """
    target, old = task.target, result.parent / "earlier" / result.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        old.parent.mkdir()
        target.rename(old)
    try:
        Ledger(task.output).write(record)
        result.rename(target)
        place_report(task.output, task.study.name, _made_report(result))
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    return record


def raise_what_stops_all(error: Exception, target: Path) -> None:
    """Raise what would fail every other study too: a full disk, a device that is gone.

    Raises:
        OSError: the disk is full or read-only.
        RuntimeError: the device failed.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            raise OSError(cause.errno, cause.strerror, str(target)) from error
        if isinstance(cause, getattr(torch, "AcceleratorError", ())):
            raise RuntimeError(f"the device failed, its work stops: {one_line(str(cause))[:200]}") from error
        cause = cause.__cause__


def _release_memory() -> None:
    """Free the volumes that engines hold in cycles; what the first study has loaded is not looked at again."""
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()


def _sentence(error: BaseException) -> str:
    if isinstance(error, ValueError | OSError | RuntimeError | MemoryError):
        return sentence_of(error)
    return f"an unexpected {type(error).__name__}: a mistake in medrestore, please report it."
