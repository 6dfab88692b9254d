"""Restore every study of a source that was not restored yet: in this process, or on the workers of a Dask cluster."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace

from medrestore_monai.studies.job import (
    Job,
    Workers,
    check_places,
    refuse_foreign_results,
    refuse_other_results,
    states_of,
)
from medrestore_monai.studies.ledger import Ledger, Record
from medrestore_monai.studies.listing import Study, list_studies
from medrestore_monai.studies.lock import lock_output
from medrestore_monai.studies.reports import has_report, write_index
from medrestore_monai.studies.superseded import Superseded, find_superseded, remove_result
from medrestore_monai.studies.task import Task, aside_folder, make_task, restore_study


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        record: of the study that was just finished.
        done: studies finished by this run.
        total: studies to restore.
        seconds: since this run began.
    """

    record: Record
    done: int
    total: int
    seconds: float


def restore_studies(
    job: Job,
    studies: Sequence[Study] | None = None,
    report: Callable[[Progress], None] | None = None,
    workers: Workers | None = None,
) -> list[Record]:
    """Restore every study that is not done, keep a record of each, and write the manifest.

    A study that fails is recorded, and the rest goes on. One client at a time works on an output.

    Args:
        job: what, and how.
        studies: what :func:`list_studies` found, if it is known already.
        report: called after each study.
        workers: processes that share the work; this process alone without them.

    Returns:
        One record a study, in the order of the list. ``outcome`` is ``restored``, ``failed`` or ``unfit``.

    Raises:
        ValueError: output and source lie in one another, a record is damaged, or another client works on the output.
        FileExistsError: results of other settings are there, and ``overwrite`` is off.
        OSError: the output cannot be written, the disk is full, or there is no scheduler.
        RuntimeError: the device failed, or a worker has another version, bundle or weights: nothing more can be done.
    """
    studies = list_studies(job.source, job.modalities) if studies is None else studies
    check_places(job, studies)
    with lock_output(job.output, workers.scheduler if workers else "") as run:
        shutil.rmtree(aside_folder(job.output), ignore_errors=True)  # of a run that was killed
        ledger = Ledger(job.output)
        ledger.clear()
        before = ledger.read_all()
        states = states_of(studies, before, job)
        old = find_superseded(studies, before, job.source, job.output)
        refuse_foreign_results(job, old)
        refuse_other_results(job, states)
        _remove_superseded(ledger, old, before)
        tasks = [make_task(job, study, before.get(study.name), run) for study in studies]
        try:
            for task in tasks:
                if states[task.study.name] in ("unfit", "problem"):
                    task.give_up(task.study.unfit or task.study.problem)
            todo = [task for task in tasks if states[task.study.name] not in ("unfit", "problem", "done")]
            todo += [replace(task, is_done=True) for task in tasks if _lacks_report(task, states[task.study.name])]
            begun = time.monotonic()
            with closing(_restore(todo, job, workers)) as finished:  # ends the workers before the lock is given back
                for done, record in enumerate(finished, 1):
                    if report is not None:
                        report(Progress(record, done, len(todo), time.monotonic() - begun))
        finally:
            shutil.rmtree(aside_folder(job.output), ignore_errors=True)
            with suppress(OSError):
                ledger.publish()
        known = ledger.read_all()
        records = [known[study.name] for study in studies]
        if job.report:
            write_index(job.output, records)
    return records


def _remove_superseded(ledger: Ledger, old: Sequence[Superseded], before: Mapping[str, Record]) -> None:
    """Remove what is not refused of earlier results that have other names now, or lie in the way."""
    kept = {name for name, record in before.items() if record.get("output")} - {one.name for one in old}
    for one in old:
        if one.words:
            remove_result(ledger, one.name, kept)
        else:
            ledger.remove(one.name)


def _lacks_report(task: Task, state: str) -> bool:
    return state == "done" and task.report and not has_report(task.output, task.study.name)


def _restore(tasks: Sequence[Task], job: Job, workers: Workers | None) -> Generator[Record, None, None]:
    if workers is None or not tasks:
        yield from (restore_study(task, job.restorer) for task in tasks)
    else:
        from medrestore_monai.studies.cluster import restore_on_workers

        yield from restore_on_workers(tasks, workers, job.settings)
