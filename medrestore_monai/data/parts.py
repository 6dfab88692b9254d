"""Which patient belongs to which part: training, validation, calibration, adaptation or test."""

import csv
import json
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medrestore_monai.data.find import Item, without_suffix

PARTS = ("train", "validation", "calibration", "adaptation", "test")
UNUSED = "unused"
_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "calibration": "calibration",
    "adaptation": "adaptation",
    "test": "test",
    "testing": "test",
    UNUSED: UNUSED,
}


def check_part(part: str) -> None:
    """Refuse what is no part.

    Raises:
        ValueError: ``part`` is neither one of :data:`PARTS` nor ``all``.
    """
    if part not in (*PARTS, "all"):
        raise ValueError(f"part must be {', '.join(map(repr, PARTS))} or 'all', got {part!r}.")


def split_by_patient(items: Sequence[Item], fraction: float = 0.1, seed: int = 0) -> tuple[list[Item], list[Item]]:
    """Split images for training and validation so that no patient is on both sides.

    Args:
        items: with their ``patient``.
        fraction: part of the patients held back, at least one.
        seed: of the draw; the same on every machine.

    Returns:
        Items for training and items held back.

    Raises:
        ValueError: there are fewer than two patients, or ``fraction`` is not in (0, 1).
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be in (0, 1), got {fraction}.")
    parts = PatientSplit(validation=fraction, seed=seed).parts_of(item["patient"] for item in items)
    training = [item for item in items if parts[item["patient"]] == "train"]
    return training, [item for item in items if parts[item["patient"]] == "validation"]


def read_split(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read which patient belongs to which part.

    Args:
        path: a ``.csv`` file with the columns ``patient`` and ``part`` or, without a header, the two in that order; a
            ``.json`` file with ``{patient: part}`` or ``{part: [patients]}``; any other: text lines ``patient part``.
            Parts are those of :data:`PARTS` (also ``val``, ``training``, ``testing``) and ``unused``.

    Returns:
        The part of every patient.

    Raises:
        ValueError: the file cannot be read as such, names an unknown part, or a patient in two of them.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file.") from error
    parts: dict[str, str] = {}
    for patient, part in _pairs(path, text):
        name = _NAMES.get(part.strip().lower())
        if name is None:
            raise ValueError(f"{path}: the part of {patient} must be one of {', '.join(_NAMES)}, got {part!r}.")
        if parts.setdefault(patient.strip(), name) != name:
            raise ValueError(f"{path}: {patient} is in {parts[patient.strip()]} and in {name}.")
    if not parts:
        raise ValueError(f"{path} names no patient.")
    return parts


def _pairs(path: Path, text: str) -> list[tuple[str, str]]:
    ending = path.suffix.lower()
    if ending == ".json":
        try:
            content = json.loads(text)
            lists = all(isinstance(value, list) for value in content.values())
            pairs = [(p, part) for part, patients in content.items() for p in patients] if lists else content.items()
            return [(str(patient), str(part)) for patient, part in pairs]
        except (json.JSONDecodeError, AttributeError) as error:
            raise ValueError(f"{path}: expected {{patient: part}} or {{part: [patients]}} in JSON: {error}.") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    rows = list(csv.reader(lines)) if ending == ".csv" else [line.rsplit(maxsplit=1) for line in lines]
    columns = [0, 1]
    if ending == ".csv" and rows and {"patient", "part"} <= {cell.strip().lower() for cell in rows[0]}:
        header = [cell.strip().lower() for cell in rows.pop(0)]
        columns = [header.index("patient"), header.index("part")]
    for row in rows:
        if len(row) <= max(columns):
            raise ValueError(f"{path}: expected a patient and a part in every line, got {' '.join(row)!r}.")
    return [(row[columns[0]], row[columns[1]]) for row in rows]


@dataclass(frozen=True)
class PatientSplit:
    """Divide patients: as a file says, else by a draw that is the same on every machine.

    Args:
        file: see :func:`read_split`; it must name every patient there is.
        validation: how many patients validate: a fraction below 1 (at least one patient), or their number.
        test: how many patients test; in the same way, 0 for none.
        seed: of the draw.
    """

    file: str | os.PathLike[str] | None = None
    validation: float = 0.1
    test: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("validation", self.validation), ("test", self.test)):
            if not (0 <= value < 1 or value == int(value) >= 1):
                raise ValueError(f"{name} must be a fraction in [0, 1) or a number of patients, got {value}.")

    def parts_of(self, patients: Iterable[str]) -> dict[str, str]:
        """Return the part of every patient.

        Raises:
            ValueError: the file does not name a patient, or there are too few patients for the parts.
        """
        names = sorted(set(patients))
        if self.file is not None:
            return self._from_file(names)
        validation, test = self._count(self.validation, len(names)), self._count(self.test, len(names))
        if validation + test >= len(names):
            raise ValueError(
                f"{validation} for validation and {test} for test leave none for training: a split by patient needs "
                f"{'two patients' if validation + test < 2 else f'{validation + test + 1} patients'} or more, "
                f"got {len(names)}."
            )
        drawn = random.Random(self.seed).sample(names, validation + test)
        held_back = dict.fromkeys(drawn[:validation], "validation") | dict.fromkeys(drawn[validation:], "test")
        return {name: held_back.get(name, "train") for name in names}

    def choose(self, items: Sequence[Item], part: str) -> list[Item]:
        """Return the items of one part, or all of them but for patients a file calls unused.

        Raises:
            ValueError: as :meth:`parts_of`, or the part has no patient.
        """
        if part == "all" and self.file is None:
            return list(items)
        parts = self.parts_of(item["patient"] for item in items)
        chosen = [item for item in items if parts[item["patient"]] in (PARTS if part == "all" else (part,))]
        if not chosen:
            raise ValueError(f"the split leaves no patient in the part {part!r}.")
        return chosen

    @staticmethod
    def _count(share: float, patients: int) -> int:
        return int(share) if share >= 1 or share == 0 else max(1, round(share * patients))

    def _from_file(self, names: Sequence[str]) -> dict[str, str]:
        listed = read_split(str(self.file))
        parts = {name: listed.get(name, listed.get(without_suffix(name), "")) for name in names}
        missing = [name for name in names if not parts[name]]
        if missing:
            more = f" and {len(missing) - 20} more" * (len(missing) > 20)
            raise ValueError(
                f"{self.file} names no part for {', '.join(missing[:20])}{more}; patients that shall not take part are "
                f"called {UNUSED!r} there."
            )
        return parts


def choose_part(
    root: Path, part: str, split: PatientSplit | None, list_items: Callable[[Path], list[Item]]
) -> list[Item]:
    """List the items of one part of a data set: of its folder ``train``, ``validation`` or ``test``, else by a split.

    Where a data set comes with a training and a test folder only, the patients that validate are drawn from training.

    Args:
        root: the data set.
        part: one of :data:`PARTS`, or ``all``.
        split: who belongs where; ``None`` for a draw of a tenth for validation.
        list_items: lists the items below a folder.
    """
    check_part(part)
    folders = part_folders(root)
    split = split or PatientSplit()
    if not folders:
        return split.choose(list_items(root), part)
    if part == "all":
        return [item for folder in folders.values() for item in list_items(folder)]
    return from_parts(root, part, split, list_items, folders)


def from_parts(
    root: Path,
    part: str,
    split: PatientSplit,
    list_items: Callable[[Path], list[Item]],
    sources: Mapping[str, Path],
) -> list[Item]:
    """List one part of a data set that is divided already; validation is drawn from training where it has none.

    Args:
        root: the data set.
        part: ``train``, ``validation`` or ``test``.
        split: how to draw validation.
        list_items: lists the items of one source.
        sources: a folder or list file for every part there is.

    Raises:
        ValueError: there is no such part.
    """
    if part in sources and (part == "test" or "validation" in sources):
        return list_items(sources[part])
    if part == "test" or "train" not in sources:
        raise ValueError(f"{root} has no part {part!r}, only {', '.join(sources)}.")
    return replace(split, test=0).choose(list_items(sources["train"]), part)


def part_folders(root: Path) -> dict[str, Path]:
    """Return the folders below ``root`` that are named after a part; none without a training folder."""
    found: dict[str, Path] = {}
    if root.is_dir():
        for folder in sorted(root.iterdir()):
            name = _NAMES.get(folder.name.lower(), UNUSED)
            if folder.is_dir() and name != UNUSED:
                if name in found:
                    raise ValueError(f"{root} has two folders for {name}: {found[name].name} and {folder.name}.")
                found[name] = folder
    ordered = {name: found[name] for name in PARTS if name in found}
    return ordered if "train" in ordered or len(ordered) > 1 else {}
