"""What ``medrestore restore`` prints of many studies: what is planned, how far it is, what became of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from medrestore_monai.cli.modes import BAD_DATA, console, errors, mode, print_note, write_document
from medrestore_monai.cli.output import RESEARCH, RESTORE_FLAGS, with_flags
from medrestore_monai.studies import SCHEMA, Job, Progress, Study, check_places, states_of
from medrestore_monai.studies.ledger import MANIFEST, Ledger, Record
from medrestore_monai.studies.reports import INDEX, REPORTS
from medrestore_monai.texts import printable


def show_plan(job: Job, studies: Sequence[Study]) -> None:
    """Print what a job would do, and do nothing.

    Raises:
        ValueError: it could do nothing, as :func:`~medrestore_monai.studies.restore_studies`.
        OSError: the output may not be written.
    """
    check_places(job, studies)
    records = Ledger(job.output).read_all()
    table = Table("study", "modality", "files", "state", title=_plain(f"{job.source} -> {job.output}"))
    states = states_of(studies, records, job)
    entries = [_plan_entry(study, states[study.name]) for study in studies]
    for entry in entries:
        state, reason = entry["state"], entry["reason"]
        words = f"{state}: {reason}" if state == "restored otherwise" else reason or state
        table.add_row(_plain(entry["name"]), _plain(entry["modality"]), str(entry["files"]), _plain(words))
    console.print(table)
    places = {"source": str(job.source), "output": str(job.output)}
    write_document("medrestore/plan/1", {**places, "settings": dict(job.settings), "studies": entries})


def _plan_entry(study: Study, state: str) -> dict[str, Any]:
    reason = study.unfit or study.problem
    if not reason and state not in ("to do", "done"):
        state, reason = "restored otherwise", state
    return {
        "name": study.name,
        "source": str(study.path),
        "modality": study.modality,
        "files": study.files,
        "size": study.size,
        "state": state,
        "reason": reason,
    }


def _with_options(text: str) -> str:
    return with_flags(text, RESTORE_FLAGS)


def _plain(text: str) -> str:
    """Return a text that rich prints as it is."""
    return escape(printable(text))


@contextmanager
def shown_progress(total: int) -> Iterator[Callable[[Progress], None]]:
    """Show how far a job is, with rate and remaining time: a bar on a terminal, else a line for each study."""
    if mode().quiet:
        yield _print_notes
    elif not errors.is_terminal:
        yield _print_line
    else:
        columns = TextColumn("restoring"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")
        with Bar(*columns, console=errors, transient=True) as bar:
            task = bar.add_task("restoring", total=total, rate="")

            def update(progress: Progress) -> None:
                bar.update(task, completed=progress.done, total=progress.total, rate=_rate(progress))
                if progress.record["outcome"] == "failed":
                    _print_line(progress)

            yield update


def _print_line(progress: Progress) -> None:
    record = progress.record
    words = f"[{progress.done}/{progress.total}] {record['name']}: {record['outcome']}"
    words += f" ({_with_options(record['reason'])})" if record["reason"] else f" in {record['seconds']:.1f} s"
    errors.print(f"{printable(words)}; {_rate(progress)}", soft_wrap=True, markup=False)
    _print_notes(progress)


def _print_notes(progress: Progress) -> None:
    name = progress.record["name"]
    for note in progress.record["notes"]:
        named = note if note.partition(": ")[0].endswith(name) else f"{name}: {note}"
        print_note(_with_options(named))


def _rate(progress: Progress) -> str:
    """Such as ``12.3 studies/min, 4:05 left``."""
    if not progress.done or not progress.seconds:
        return ""
    left = round(progress.seconds / progress.done * (progress.total - progress.done))
    hours, rest = divmod(left, 3600)
    clock = f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
    return f"{60 * progress.done / progress.seconds:.1f} studies/min, {clock} left"


def show_results(records: Sequence[Record], job: Job, bundle: str) -> int:
    """Print what became of the studies; the exit code is that of bad data if one failed."""
    write_document(SCHEMA, {"studies": list(records)})
    counts = {outcome: sum(record["outcome"] == outcome for record in records) for outcome in _WORDS}
    table = Table("study", "outcome", "why")
    for record in records:
        if record["outcome"] != "restored":
            table.add_row(_plain(record["name"]), _WORDS[record["outcome"]], _plain(_with_options(record["reason"])))
    if table.row_count:
        console.print(table)
    words = ", ".join(f"{count} {_WORDS[outcome]}" for outcome, count in counts.items() if count or outcome != "unfit")
    summary = f"{len(records)} studies with {bundle}: {words}. Details: {job.output / MANIFEST}. {RESEARCH}"
    console.print(printable(summary), soft_wrap=True, markup=False)
    if job.report:
        console.print(printable(f"Reports: {job.output / REPORTS / INDEX}"), soft_wrap=True, markup=False)
    return BAD_DATA if counts["failed"] else 0


_WORDS: dict[Any, str] = {"restored": "restored", "failed": "failed", "unfit": "passed over"}
