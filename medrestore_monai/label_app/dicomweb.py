"""One series from a DICOMweb store to a folder (QIDO-RS, WADO-RS), and a derived one back into it (STOW-RS).

The clients are ``dicomweb_client.DICOMwebClient``; the rules are those of PS3.18, sections 10.4 to 10.6.
"""

import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

_TOGETHER = 64  # instances in one request: 32 MiB of CT slices
_STUDY, _SERIES, _DESCRIPTION, _INSTANCES = "0020000D", "0020000E", "0008103E", "00201209"
_INSTANCE = "00080018"
#: In the description of every series that this package derives.
DERIVED_MARK = "[MEDRESTORE"


def list_series(client: Any, modalities: Sequence[str], filters: dict[str, Any] | None = None) -> list[str]:
    """Return the SeriesInstanceUIDs of a store, without those of series that this package has derived.

    Args:
        client: of the store.
        modalities: of the series.
        filters: more attributes to search for, such as ``{"PatientID": "17"}``.

    Raises:
        OSError: the store does not answer as it should.
    """
    found = []
    for modality in modalities:
        wanted = {**(filters or {}), "Modality": modality}
        answer = _search(client.search_for_series, _SERIES, search_filters=wanted, fields=[_DESCRIPTION])
        found += [_text(one, _SERIES) for one in answer if DERIVED_MARK not in _text(one, _DESCRIPTION)]
    return found


def fetch_series(client: Any, series_uid: str, folder: Path) -> int:
    """Write the files of one series to a folder, under names of our own.

    Args:
        client: of the store.
        series_uid: SeriesInstanceUID.
        folder: exists and is empty.

    Returns:
        How many files.

    Raises:
        ValueError: not a UID.
        FileNotFoundError: the store has no such series.
        OSError: the store does not answer as it should, or sends fewer instances than it says it has, or something
            that is no DICOM.
    """
    if not re.fullmatch(r"[0-9.]{1,64}", series_uid):
        raise ValueError(f"a SeriesInstanceUID has digits and dots only, got {series_uid!r}.")
    answer = client.search_for_series(search_filters={"SeriesInstanceUID": series_uid}, fields=[_INSTANCES])
    matching = [one for one in answer if _text(one, _SERIES) == series_uid]
    if not matching:
        raise FileNotFoundError(f"the DICOMweb store has no series {series_uid}.")
    count = 0
    try:
        for count, instance in enumerate(client.iter_series(_text(matching[0], _STUDY), series_uid), start=1):
            instance.save_as(folder / f"{count:06d}.dcm")
    except (OSError, MemoryError):
        raise
    except Exception as error:  # pydicom raises many kinds, some of which are plain exceptions
        raise OSError(
            f"the DICOMweb store sent a part of series {series_uid} that is no DICOM instance ({type(error).__name__})."
        ) from error
    expected = _text(matching[0], _INSTANCES)
    if not count or (expected.isdigit() and count < int(expected)):
        raise OSError(f"the DICOMweb store sent {count} of {expected or 'the'} instances of series {series_uid}.")
    return count


def store_series(client: Any, folder: Path) -> dict[str, Any]:
    """Store the files of a derived series.

    Its UIDs depend on source and settings only, so storing it again after an error adds nothing twice.
    A store that does not say what it took is searched for it.

    Args:
        client: of the store.
        folder: holds the files, and nothing else.

    Returns:
        ``study_uid``, ``series_uid`` and the number of ``instances``.

    Raises:
        OSError: the store refused instances or lacks them, or does not answer as it should.
    """
    files = iter(sorted(folder.iterdir()))
    stored, first = 0, None
    while group := [dcmread(file) for file in islice(files, _TOGETHER)]:
        first = first or group[0]
        try:
            answer = client.store_instances(group, study_instance_uid=str(first.StudyInstanceUID))
        except KeyError:  # of an answer without a media type
            answer = None
        accepted = {str(item.ReferencedSOPInstanceUID) for item in _items(answer, "ReferencedSOPSequence")}
        failed = _items(answer, "FailedSOPSequence")
        silent = not accepted and not failed  # the client also drops an answer of a media type with a charset
        if silent:
            accepted = _list_instances(client, first)
        refused = [ds for ds in group if str(ds.SOPInstanceUID) not in accepted]
        if refused and silent:
            raise OSError(
                f"the DICOMweb store did not say what it took of {len(group)} instances, and does not list "
                f"{len(refused)} of them; storing again adds nothing twice."
            )
        if refused:
            reasons = {str(item.get("FailureReason")) for item in failed}
            raise OSError(
                f"the DICOMweb store took {stored + len(group) - len(refused)} instances and refused {len(refused)} "
                f"(failure reason {', '.join(sorted(reasons)) or 'not given'}); storing again adds nothing twice."
            )
        stored += len(group)
    if first is None:
        raise OSError(f"there is nothing to store in {folder.name}.")
    return {"study_uid": str(first.StudyInstanceUID), "series_uid": str(first.SeriesInstanceUID), "instances": stored}


def _list_instances(client: Any, first: Dataset) -> set[str]:
    """The SOPInstanceUIDs that a store lists in the series of its first instance."""
    wanted = {"study_instance_uid": str(first.StudyInstanceUID), "series_instance_uid": str(first.SeriesInstanceUID)}
    return {_text(one, _INSTANCE) for one in _search(client.search_for_instances, _INSTANCE, **wanted)}


def _search(ask: Callable[..., Any], tag: str, **wanted: Any) -> list[dict[str, Any]]:
    """All results of a search, page by page, up to one that brings no new UID: a store may ignore ``offset``."""
    found: dict[str, dict[str, Any]] = {}
    offset = 0
    while page := ask(**wanted, offset=offset):
        new = {_text(one, tag): one for one in page if _text(one, tag) not in found}
        if not new:
            break
        found |= new
        offset += len(page)
    return list(found.values())


def _items(answer: Any, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence in a store's answer, empty where there is none."""
    return answer.get(keyword) or [] if answer is not None else []


def _text(found: dict[str, Any], tag: str) -> str:
    """One value of a search result in the DICOM JSON model, empty where there is none."""
    values = found.get(tag, {}).get("Value") or [""]
    return str(values[0])
