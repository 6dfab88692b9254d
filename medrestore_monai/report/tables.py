"""Tables as CSV, JSON and Markdown: rounded, so that two machines write the same, and without any time or path."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medrestore_monai.files import atomic_folder, require_writable
from medrestore_monai.report.significance import LEAST_GROUPS
from medrestore_monai.report.summary import SliceScore, SummaryRow

_TITLES = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "rmse": "RMSE",
    "delta_e": "DeltaE 2000",
    "noise": "noise",
    "noise_of_reference": "noise of the reference",
    "gain": "signal gain",
    "frc": "FRC, 1/mm",
    "coverage": "coverage of the interval",
}
_FEW = 6  # patients
SCHEMA = "medrestore/evaluate/1"  # of table.json
RESEARCH = "For research, not a medical device."


def check_folder(output: Path, overwrite: bool = False) -> None:
    """Refuse a folder that a report must not replace.

    Args:
        output: where the report is to go.
        overwrite: replace a report that exists.

    Raises:
        FileExistsError: there is something at ``output``, and not ``overwrite``, or it is no report.
        OSError: it may not be written.
    """
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; name another folder, or replace it with `overwrite`.")
    if output.exists() and not (output / "table.json").is_file():
        raise FileExistsError(f"{output} is no report of this program: it is not overwritten.")
    require_writable(output)


@contextmanager
def new_folder(output: Path, overwrite: bool = False) -> Iterator[Path]:
    """Make a folder beside ``output`` to write to, which takes its place at the end, or vanishes if anything fails.

    Args:
        output: see :func:`check_folder`.
        overwrite: see there.

    Raises:
        FileExistsError: as :func:`check_folder`.
    """
    check_folder(output, overwrite)
    with atomic_folder(output, overwrite) as folder:
        yield folder


def write_tables(
    folder: Path,
    about: Mapping[str, Any],
    rows: Sequence[SummaryRow],
    scores: Sequence[SliceScore],
    notes: Sequence[str],
) -> None:
    """Write ``table.csv``, ``table.json``, ``table.md`` and ``slices.csv``.

    Args:
        folder: an existing folder.
        about: what was evaluated, and how: texts, numbers, lists and mappings.
        rows: from :func:`~medrestore_monai.report.summarize`.
        scores: of every slice.
        notes: sentences for the reader.
    """
    records = [_record(row) for row in rows]
    write_csv(folder / "table.csv", records)
    numbers = [{name: _number(value) for name, value in record.items()} for record in records]
    content = {"schema": SCHEMA, "about": about, "table": numbers, "notes": list(notes)}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "table.json").write_text(text + "\n", encoding="utf-8")
    (folder / "table.md").write_text(markdown(about, rows, notes), encoding="utf-8")
    fields = ("modality", "region", "patient", "volume", "slice", "method")
    lines = [
        {field: getattr(one, field) for field in fields} | {name: rounded(v, name) for name, v in one.values.items()}
        for one in scores
    ]
    write_csv(folder / "slices.csv", lines)


def write_times(path: Path, seconds: Mapping[str, Sequence[float]], environment: Mapping[str, str]) -> None:
    """Write how long each method took for a slice; this table differs from run to run.

    Args:
        path: the CSV to write.
        seconds: one time per slice, by method.
        environment: device and versions, repeated in every line.
    """
    lines = []
    for method, times in seconds.items():
        ordered = sorted(times)
        line: dict[str, Any] = {"method": method, "slices": len(times), "median_s": round(ordered[len(times) // 2], 4)}
        lines.append({**line, "mean_s": round(sum(times) / len(times), 4), **environment})
    write_csv(path, lines)


def markdown(about: Mapping[str, Any], rows: Sequence[SummaryRow], notes: Sequence[str]) -> str:
    """Return the report as Markdown; the arguments are those of :func:`write_tables`."""
    lines = ["# Evaluation", "", RESEARCH, ""]
    lines += [f"- {name}: {_inline(value)}" for name, value in about.items()]
    for modality, region, average in dict.fromkeys((row.modality, row.region, row.average) for row in rows):
        here = [row for row in rows if (row.modality, row.region, row.average) == (modality, region, average)]
        first = here[0]
        if average == "volume" and first.count in (1, _slices(rows, first)):
            continue  # nothing new
        lines += ["", f"## {modality}, {region}: mean over {first.count} {average}s of {_count(first.patients)}", ""]
        lines.append(f"95 % intervals and p-values over {first.unit}.{_caution(first)}")
        names = list(dict.fromkeys(name for row in here for name in row.scores))
        lines += ["", "| method | " + " | ".join(f"{_title(name, about, modality)} | p" for name in names) + " |"]
        lines.append("|---" * (1 + 2 * len(names)) + "|")
        for row in here:
            cells = [cell for name in names for cell in _cells(row, name)]
            lines.append(f"| {row.method} | " + " | ".join(cells) + " |")
    lines += ["", "## Notes", "", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def rounded(value: float, name: str) -> str:
    """Round a score to the digits it is reported with; empty for NaN."""
    if math.isnan(value):
        return ""
    if name == "p":
        return "<0.0001" if value < 0.0001 else f"{value:.2g}"
    digits = {"psnr": 2, "ssim": 4, "delta_e": 3}.get(name)
    if digits is None:
        return f"{value:.4g}"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _record(row: SummaryRow) -> dict[str, Any]:
    record: dict[str, Any] = {
        "modality": row.modality,
        "region": row.region,
        "average": row.average,
        "method": row.method,
        "count": row.count,
        "patients": row.patients,
        "interval_over": row.unit,
    }
    for name, estimate in row.scores.items():
        record[name] = rounded(estimate.mean, name)
        record[f"{name}_low"] = rounded(estimate.lower, name)
        record[f"{name}_high"] = rounded(estimate.upper, name)
        record[f"{name}_p"] = rounded(estimate.p, "p")
    return record


def _number(value: Any) -> Any:
    """Turn the text of a rounded score into a number for JSON, which has neither NaN nor infinity."""
    if value == "":
        return None
    try:
        number = float(value)
    except ValueError:
        return value
    return value if isinstance(value, int) or math.isinf(number) else number


def _cells(row: SummaryRow, name: str) -> tuple[str, str]:
    if name not in row.scores:
        return "", ""
    estimate = row.scores[name]
    mean = rounded(estimate.mean, name)
    if not math.isnan(estimate.lower):
        mean += f" ({rounded(estimate.lower, name)} to {rounded(estimate.upper, name)})"
    return mean, rounded(estimate.p, "p")


def _title(name: str, about: Mapping[str, Any], modality: str) -> str:
    unit = about.get("units", {}).get(modality, "")
    relative = modality == "PT" and "noise" in name
    return f"{_TITLES[name]}, {unit}" if name == "rmse" or ("noise" in name and not relative) else _TITLES[name]


def _caution(row: SummaryRow) -> str:
    if row.unit == "slices":
        return " Slices of one volume are not independent: take them as a hint."
    if row.unit == "patients" and row.patients < LEAST_GROUPS:
        return f" Of {row.patients} patients only: too few for intervals, and p-values are a hint."
    return f" Of {row.patients} patients only: take them as a hint." if row.patients < _FEW else ""


def _slices(rows: Sequence[SummaryRow], row: SummaryRow) -> int:
    """Return how many slices the volumes of a row have."""
    place = (row.modality, row.region, row.method)
    return next(o.count for o in rows if (o.modality, o.region, o.method) == place and o.average == "slice")


def _count(patients: int) -> str:
    return "1 patient" if patients == 1 else f"{patients} patients"


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_inline(inner)}" for name, inner in value.items())
    return ", ".join(_inline(one) for one in value) if isinstance(value, list | tuple) else str(value)


def write_csv(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records as CSV, with a column for every field that one of them has."""
    fields = list(dict.fromkeys(name for record in records for name in record))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
