"""What was done: one record a study, written to a temporary file and renamed, and the manifest made of them.

Records lie in ``.medrestore/records`` of the output: a process that is killed loses none. ``manifest.json`` is a copy
of all of them for readers. Names that are not UTF-8 stand in them as Python has them, with surrogate escapes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medrestore_monai.files import atomic_file

Record = dict[str, Any]

SCHEMA = "medrestore/restore/1"  # of the manifest, and of the record of one study
HIDDEN = ".medrestore"
MANIFEST = "manifest.json"


class Ledger:
    """The records of one output folder.

    Args:
        output: the folder; it need not be there yet.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output / HIDDEN / "records"

    @staticmethod
    def key(name: str) -> str:
        """A file name for the study called ``name``."""
        return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]

    def read(self, name: str) -> Record | None:
        """Return the record of a study, if there is one.

        Raises:
            ValueError: it is damaged.
        """
        path = self.folder / f"{self.key(name)}.json"
        return _read(path) if path.is_file() else None

    def read_all(self) -> dict[str, Record]:
        """Return all records, by the names of their studies.

        Raises:
            ValueError: one is damaged.
        """
        records = (_read(path) for path in sorted(self.folder.glob("*.json")))
        return {record["name"]: record for record in records if record}

    def write(self, record: Record) -> None:
        """Write the record of ``record["name"]``, in place of an earlier one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / f"{self.key(record['name'])}.json", record)

    def remove(self, name: str) -> None:
        """Remove the record of a study, if there is one."""
        (self.folder / f"{self.key(name)}.json").unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what killed processes left half written; only who holds the output's lock may."""
        for leftover in (*self.folder.glob(".*.part"), *self.output.glob(f".{MANIFEST}.*.part")):
            leftover.unlink(missing_ok=True)

    def publish(self) -> Path:
        """Write the manifest."""
        path, records = self.output / MANIFEST, self.read_all()
        _write(path, {"schema": SCHEMA, "manifest": 1, "studies": [records[name] for name in sorted(records)]})
        return path


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say in words how two settings differ; empty if they do not."""
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    changes = [f"{name} {_short(before.get(name))} there and {_short(now.get(name))} now" for name in names]
    return ", ".join(changes)


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 24 else f"{text[:12]}..."


def _read(path: Path) -> Record | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["name"], record["outcome"], record["settings"]
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path} is no record of a study: remove it, and the study is restored again.") from None
    return dict(record)


def _write(path: Path, content: Any) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=1).encode())
