"""The files that a DICOMDIR lists (PS3.3 F.3), as far as they lie in its folder."""

from __future__ import annotations

from pathlib import Path

import pydicom

from medrestore_monai.dicom.checks import DicomError, reading

__all__ = ["listed_files"]


def listed_files(index: Path) -> list[Path]:
    """Return the files of a DICOMDIR, which all must be there.

    Raises:
        DicomError: it lists none, or some are missing.
    """
    with reading(index.name):
        records = pydicom.dcmread(str(index)).get("DirectoryRecordSequence") or []
        names = [record.ReferencedFileID for record in records if record.get("ReferencedFileID")]
        parts = [[name] if isinstance(name, str) else [str(part) for part in name] for name in names]
    if not parts:
        raise DicomError(f"{index.name} lists no files: give the folder of the images.")
    found = [_below(index.parent, one) for one in parts]
    present = [file for file in found if file is not None]
    if len(present) < len(found):
        raise DicomError(
            f"{index.name} lists {len(found)} files, of which {len(present)} are there: copy the whole disc, or give "
            "the folder of a series."
        )
    return present


def _below(folder: Path, parts: list[str]) -> Path | None:
    """The file of these names below a folder, in capitals or not; ``None`` if it is not there or lies elsewhere."""
    place = folder
    for part in parts:
        if part in ("", ".", "..") or "/" in part or "\\" in part:
            return None
        choices = (place / part, place / part.lower(), place / part.upper())
        place = next((choice for choice in choices if choice.exists()), place / part)
    return place if place.is_file() and place.resolve().is_relative_to(folder.resolve()) else None
