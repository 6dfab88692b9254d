"""Files of a bundle with what was calibrated for its weights, by modality: ``{"version": 2, "modalities": {}}``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medrestore_monai.files import DataError

__all__ = ["damage_named", "read_modalities", "write_modality"]


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn what a damaged file, or one of another version, raises into a :class:`DataError` that names it."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"{path} is damaged or of another version: remove it.") from None


def read_modalities(path: Path, version: int) -> dict[str, Any]:
    """Return what a file holds, by modality; read it and its values within :func:`damage_named`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["version"] != version:
        raise ValueError
    return dict(content["modalities"])


def write_modality(path: Path, version: int, modality: str, found: Mapping[str, Any]) -> None:
    """Write what was found for a modality; others in the file stay.

    Raises:
        DataError: the file is damaged, or of another version.
    """
    modalities: dict[str, Any] = {}
    if path.is_file():
        with damage_named(path):
            modalities = read_modalities(path, version)
    content = {"version": version, "modalities": {**modalities, modality: dict(found)}}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
