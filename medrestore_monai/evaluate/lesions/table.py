"""The report on lesions: ``table.json``, ``table.csv``, ``inventions.csv`` and ``table.md``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medrestore_monai.evaluate.lesions.inventions import THRESHOLD, WIDTH
from medrestore_monai.evaluate.lesions.observer import CHANNELS, LEAST_PAIRS
from medrestore_monai.evaluate.lesions.summary import InventionRow, LesionRow
from medrestore_monai.report.significance import LEAST_GROUPS
from medrestore_monai.report.tables import RESEARCH, write_csv

SCHEMA = "medrestore/lesions/1"  # of table.json
_FEW = 6  # patients
_METHOD = (
    f"AUC: channelized Hotelling observer, {CHANNELS} Laguerre-Gauss channels, known place, each place with and "
    "without its lesion, with the same noise; 95 % intervals, exact for normal channel outputs of independent places. "
    "Contrast: projection of the difference on that of the clean images; 95 % intervals by bootstrap over patients, or "
    "over slices of a single one. Size: diameter at half of the maximum of the mean difference, over that of the clean "
    "images."
)
_INVENTED = (
    "Connected regions of a lesion-free slice where the difference of result and reference, smoothed with a Gaussian "
    f"of {WIDTH:g} mm full width at half maximum, exceeds {THRESHOLD:g} noise standard deviations of the reference. "
    "Noise that is left counts, too: compare methods that leave about as much."
)


def write_report(
    folder: Path,
    about: Mapping[str, Any],
    lesions: Sequence[LesionRow],
    inventions: Sequence[InventionRow],
    notes: Sequence[str],
) -> None:
    """Write the tables.

    Args:
        folder: an existing folder.
        about: what was evaluated, and how: texts, numbers, lists and mappings.
        lesions: one row for each kind and method.
        inventions: one row for each method.
        notes: sentences for the reader.
    """
    records, counts = [_record(row) for row in lesions], [_count(row) for row in inventions]
    content = {
        "schema": SCHEMA,
        "about": about,
        "lesions": records,
        "inventions": counts,
        "methods": {"lesions": _METHOD, "inventions": _INVENTED},
        "notes": list(notes),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "table.json").write_text(text + "\n", encoding="utf-8")
    (folder / "table.md").write_text(markdown(lesions, inventions, notes), encoding="utf-8")
    write_csv(folder / "table.csv", records)
    write_csv(folder / "inventions.csv", counts)


def markdown(lesions: Sequence[LesionRow], inventions: Sequence[InventionRow], notes: Sequence[str]) -> str:
    """Return the report as Markdown; the arguments are those of :func:`write_report`."""
    lines = ["# Lesions", "", RESEARCH, "", _METHOD]
    for modality in dict.fromkeys(row.modality for row in lesions):
        rows = [row for row in lesions if row.modality == modality]
        patients = rows[0].patients
        caution = f" Of {patients} patient(s) only: take it as a hint." if patients < _FEW else ""
        if 1 < patients < LEAST_GROUPS:
            caution = f" Of {patients} patients only: too few for intervals of the contrast."
        lines += ["", f"## {modality}: {rows[0].pairs} places of {patients} patient(s)", ""]
        lines += [f"One cell: AUC (interval), contrast (interval), size.{caution}", ""]
        methods = list(dict.fromkeys(row.method for row in rows))
        lines += ["| lesion | " + " | ".join(methods) + " |", "|---" * (1 + len(methods)) + "|"]
        for kind in dict.fromkeys(row.kind for row in rows):
            cells = [_cell(row) for row in rows if row.kind == kind]
            lines.append(f"| {kind.described} | " + " | ".join(cells) + " |")
        lines += ["", f"### Invented in lesion-free slices of {modality}", "", _INVENTED, ""]
        lines += ["| method | slices | bright, per slice | dark, per slice | noise SD |", "|---|---|---|---|---|"]
        lines += [
            f"| {row.method} | {row.slices} | {row.bright:.2f} | {row.dark:.2f} | {_number(row.noise, 3) or ''} |"
            for row in inventions
            if row.modality == modality
        ]
    lines += ["", "## Notes", "", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def _cell(row: LesionRow) -> str:
    size = "gone" if row.size is None else f"{row.size:.2f}"
    interval = "" if math.isnan(row.low) else f" ({row.low:.2f} to {row.high:.2f})"
    seen = f"needs {LEAST_PAIRS} pairs"
    if row.observer is not None:
        seen = f"{row.observer.auc:.3f} ({row.observer.low:.3f} to {row.observer.high:.3f})"
    return f"{seen}; {row.contrast:.2f}{interval}; {size}"


def _record(row: LesionRow) -> dict[str, Any]:
    seen = row.observer
    return {
        "modality": row.modality,
        "diameter_mm": row.kind.diameter,
        "contrast": row.kind.contrast,
        "contrast_unit": "local mean" if row.kind.is_relative else "HU",
        "method": row.method,
        "pairs": row.pairs,
        "patients": row.patients,
        "detectability": None if seen is None else _number(seen.detectability, 4),
        "auc": None if seen is None else _number(seen.auc, 4),
        "auc_low": None if seen is None else _number(seen.low, 4),
        "auc_high": None if seen is None else _number(seen.high, 4),
        "contrast_left": _number(row.contrast, 4),
        "contrast_left_low": _number(row.low, 4),
        "contrast_left_high": _number(row.high, 4),
        "size_left": None if row.size is None else _number(row.size, 4),
        "not_measured": "" if seen is not None else f"an AUC needs {LEAST_PAIRS} pairs",
    }


def _count(row: InventionRow) -> dict[str, Any]:
    return {
        "modality": row.modality,
        "method": row.method,
        "slices": row.slices,
        "bright_per_slice": _number(row.bright, 4),
        "dark_per_slice": _number(row.dark, 4),
        "noise": _number(row.noise, 4),
    }


def _number(value: float, digits: int) -> float | None:
    """Round to significant digits; JSON has no NaN."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
