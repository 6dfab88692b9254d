"""The audits of many studies: one folder a study below ``report`` of the output, and a page that lists them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from medrestore_monai.audit.index import INDEX, read_listed, render_index
from medrestore_monai.audit.writing import PAGE
from medrestore_monai.files import UsageError, atomic_file
from medrestore_monai.studies.ledger import Record
from medrestore_monai.studies.listing import Study

REPORTS = "report"


def refuse_study_in_reports(studies: Sequence[Study]) -> None:
    """Refuse a source with a study whose result would lie among the reports.

    Raises:
        UsageError: there is one.
    """
    inside = next((study.name for study in studies if study.name.split("/")[0] == REPORTS), None)
    if inside is not None:
        raise UsageError(f"the result of {inside} would lie among the reports: rename it, or leave `report` out.")


def has_report(output: Path, name: str) -> bool:
    """Say whether a study has its report."""
    return (output / REPORTS / name / PAGE).is_file()


def place_report(output: Path, name: str, made: Path) -> None:
    """Put the report of a new result into place; without one, that of an earlier result goes."""
    place = output / REPORTS / name
    shutil.rmtree(place, ignore_errors=True)
    if made.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        made.rename(place)


def write_index(output: Path, records: Sequence[Record]) -> Path:
    """Write the page that lists the reports, those that need a look first."""
    root = output / REPORTS
    root.mkdir(exist_ok=True)
    listed = [
        read_listed(root, record["name"], record["name"], record["reason"])
        for record in records
        if record["outcome"] != "unfit"
    ]
    with atomic_file(root / INDEX) as file:
        file.write(render_index(listed).encode())
    return root / INDEX
