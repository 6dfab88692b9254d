"""Results of earlier runs that lie in the way of others, or whose series has another name now.

A series that is alone in the folder ``p2`` has that name; beside a second one it becomes ``p2/CT-1f0c9a2e``.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from medrestore_monai.studies.ledger import Ledger, Record
from medrestore_monai.studies.listing import Study
from medrestore_monai.studies.reports import REPORTS


class Superseded(NamedTuple):
    """A record that does not go with the studies of a source.

    Attributes:
        name: of the record.
        study: name of the study in whose place it is, or that it was.
        words: how the two go together; empty if there is no result to lose.
        foreign: the result is of another source, so that nothing would restore it again.
    """

    name: str
    study: str
    words: str
    foreign: bool = False


def find_superseded(
    studies: Sequence[Study], records: Mapping[str, Record], source: Path, output: Path
) -> list[Superseded]:
    """Find the records of names that are no longer listed, but whose series or place belongs to a listed study.

    Args:
        studies: what is in the source.
        records: by their names.
        source: where the studies lie.
        output: where the results lie.
    """
    wanted = [study for study in studies if not (study.unfit or study.problem)]
    names = {study.name for study in wanted}
    above = {str(folder): name for name in sorted(names, reverse=True) for folder in PurePosixPath(name).parents}
    by_uid: dict[str, list[Study]] = defaultdict(list)
    for study in (study for study in wanted if study.series_uid):
        by_uid[study.series_uid].append(study)
    found = []
    for name in sorted(records.keys() - {study.name for study in studies} - {"."}):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            continue  # no record of ours, and nothing outside of the output is removed
        record = records[name]
        has_result = bool(record.get("output")) and (output / name).exists()
        alike = by_uid.get(record.get("series_uid", ""), ())
        same = next((study.name for study in alike if _overlap(record, study)), "")
        below = next((str(folder) for folder in PurePosixPath(name).parents if str(folder) in names - {"."}), "")
        if same:
            found.append(Superseded(name, same, f"{name} there is {same} now" if has_result else ""))
        elif name in above:
            words = f"{above[name]} would lie in the result {name} that is there"
            found.append(Superseded(name, above[name], words if has_result else "", _is_foreign(record, source)))
        elif below and has_result:
            words = f"{below} would replace the result {name} that is there"
            found.append(Superseded(name, below, words, _is_foreign(record, source)))
    return found


def _is_foreign(record: Record, source: Path) -> bool:
    return not Path(str(record.get("source") or "/")).resolve().is_relative_to(source.resolve())


def _overlap(record: Record, study: Study) -> bool:
    """Return whether the source of a record and the path of a study are one, or one lies in the other."""
    if not record.get("source"):
        return False
    before, now = Path(record["source"]).resolve(), study.path.resolve()
    return before.is_relative_to(now) or now.is_relative_to(before)


def remove_result(ledger: Ledger, name: str, others: Iterable[str]) -> None:
    """Remove a result, its report and its record.

    Args:
        ledger: with the record, which goes last: a process that is killed in between leaves nothing without one.
        name: of the record.
        others: names of results that stay, also if they lie in this one.
    """
    inside = [other for other in others if name in map(str, PurePosixPath(other).parents)]
    for root in (ledger.output, ledger.output / REPORTS):
        _remove(root / name, {root / other for other in inside})
        for folder in PurePosixPath(name).parents[:-1]:
            with suppress(OSError):  # it is not empty, or not there
                (root / folder).rmdir()
    ledger.remove(name)


def _remove(path: Path, kept: set[Path]) -> None:
    if path in kept:
        return
    if path.is_dir() and any(path in one.parents for one in kept):
        for inside in path.iterdir():
            _remove(inside, kept)
        with suppress(OSError):  # it is not empty
            path.rmdir()
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
