"""What is to be restored, how and by which processes, and what of it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medrestore_monai.bundles import sha256
from medrestore_monai.data import check_folder
from medrestore_monai.files import UsageError, require_writable
from medrestore_monai.restorer import Restorer
from medrestore_monai.studies.fingerprints import are_same
from medrestore_monai.studies.ledger import HIDDEN, MANIFEST, Record, differences
from medrestore_monai.studies.listing import Study
from medrestore_monai.studies.reports import refuse_study_in_reports
from medrestore_monai.studies.superseded import Superseded, find_superseded

_SECOND = 10**9  # ns


@dataclass(frozen=True)
class Job:
    """What to restore, and how.

    Args:
        source: a folder or an archive.
        output: a folder, where each result gets the place that its study has below the source.
        restorer: restores each of them.
        settings: all that the results depend on, as :func:`settings_of` has it.
        overwrite: restore studies again that were restored with other settings, and replace results of other runs.
        modalities: of DICOM series that can be restored; all, where it is empty.
        report: audit each result.
    """

    source: Path
    output: Path
    restorer: Restorer
    settings: Mapping[str, Any]
    overwrite: bool = False
    modalities: Sequence[str] = ()
    report: bool = False


@dataclass(frozen=True)
class Workers:
    """The processes that share many studies, by Dask (the extra ``cluster``).

    Args:
        open_restorer: opens the bundle on a worker; it is sent there, as :func:`functools.partial` can be.
        count: processes to start on this machine.
        scheduler: address of a running Dask scheduler, ``tls://host:port``, in place of them. Its workers read the
            source and write the output by the same paths.
        device: of the workers; ``auto`` gives each of those on this machine one GPU.
        threads: of each worker; 0 for those of this process or, with a scheduler, the cores of the worker's machine,
            divided by the workers there.
    """

    open_restorer: Callable[[], Restorer]
    count: int = 2
    scheduler: str = ""
    device: str = "auto"
    threads: int = 0


def make_job(source: Path, output: Path, restorer: Restorer, overwrite: bool = False, report: bool = False) -> Job:
    """Return the job of restoring all studies of a source with an opened bundle."""
    bundle = restorer.bundle
    modalities = () if "RGB" in bundle.modalities else bundle.dicom_modalities  # pictures may lie beside DICOM files
    return Job(source, output, restorer, settings_of(restorer), overwrite, modalities, report)


def settings_of(restorer: Restorer) -> dict[str, Any]:
    """Name all that a result depends on: the bundle, its configuration and weights, and the settings of opening."""
    bundle = restorer.bundle
    return {
        "bundle": bundle.name,
        "bundle_version": str(bundle.metadata["version"]),
        "config_sha256": sha256(bundle.config("inference")),
        "weights_sha256": restorer.weights_sha256,
        **restorer.settings,
    }


def are_many(studies: Sequence[Study], output: Path) -> bool:
    """Say whether a list is a job for :func:`restore_studies`: several studies, or more to come of an earlier job."""
    wanted = [study for study in studies if study.series_uid or not study.unfit]  # previews are no studies
    if len(wanted) == 1 and wanted[0].name != ".":
        return (output / HIDDEN).is_dir()
    return len(wanted) > 1


def states_of(studies: Sequence[Study], records: Mapping[str, Record], job: Job) -> dict[str, str]:
    """Say what is to be done about each study, by name, as :func:`state_of`; and where an old result is in the way."""
    states = {study.name: state_of(study, records.get(study.name), job) for study in studies}
    found = find_superseded(studies, records, job.source, job.output)
    return states | {old.study: old.words for old in found if old.words}


def refuse_foreign_results(job: Job, found: Sequence[Superseded]) -> None:
    """Refuse to put results in the place of those of another source, which would be lost.

    Args:
        job: what, and how.
        found: of :func:`~medrestore_monai.studies.superseded.find_superseded`.

    Raises:
        FileExistsError: there are such results, with ``overwrite``, too.
    """
    for old in found:
        if old.words and old.foreign:
            raise FileExistsError(f"{job.output}: {old.words} and is of another source; name another output.")


def state_of(study: Study, record: Record | None, job: Job) -> str:
    """Say what is to be done about a study: ``to do``, ``done``, ``unfit``, ``problem``, or how its result differs."""
    if study.unfit or study.problem:
        return "unfit" if study.unfit else "problem"
    if record is None or not (job.output / study.name).exists():
        return "to do"
    if record["outcome"] != "restored":  # an earlier result may stay, which only what was tried with it may replace
        return (differences(record["settings"], job.settings) if record.get("output") else "") or "to do"
    return differences(record["settings"], job.settings) or _change_of_files(study, record) or "done"


def _change_of_files(study: Study, record: Record) -> str:
    """Say in words how the files of a study differ from those that were restored; empty if they do not seem to.

    Compared are the series, and names, sizes and times of writing of all files. Copies that keep times are equal, even
    if they keep them in whole seconds only, as tar, zip and FAT do; copies that get new times are not. Records of
    earlier versions have no fingerprints, but the newest time alone, or none.
    """
    if record.get("series_uid", study.series_uid) != study.series_uid:
        return "another series then"
    if (record["files"], record["size"]) != (study.files, study.size):
        return f"{record['files']} files of {record['size']} bytes then, {study.files} of {study.size} now"
    before = record.get("modified", study.modified)
    rounded = (before % _SECOND == 0) != (study.modified % _SECOND == 0)
    alike = before == study.modified or (rounded and abs(before - study.modified) < 2 * _SECOND)
    if record.get("fingerprints") and study.fingerprints:
        if are_same(record["fingerprints"], study.fingerprints):
            return ""
        if alike:
            return "files of other names, sizes or times then"
    if alike:
        return ""
    return f"files written at {_time(before)} then, {_time(study.modified)} now"


def _time(nanoseconds: int) -> str:
    return f"{np.datetime64(nanoseconds // 10**6, 'ms')} UTC"


def check_places(job: Job, studies: Sequence[Study]) -> None:
    """Refuse an output that is a file, that lies in the source, or that may not be written.

    Raises:
        ValueError: it is a file, or lies there, or reports and results would lie in one another.
        FileExistsError: a manifest that is not of these studies would be replaced, and ``overwrite`` is off.
        OSError: it may not be written.
    """
    roots = {job.source.resolve(), *(study.path.resolve() for study in studies)}  # links may lead anywhere
    for place in (job.output.resolve(), *((job.output / study.name).resolve() for study in studies)):
        if place in roots or not roots.isdisjoint(place.parents):
            raise UsageError(f"the output {job.output} and the source {job.source} may not lie in one another.")
    check_folder(job.source, job.output)
    if job.report:
        refuse_study_in_reports(studies)
    manifest = job.output / MANIFEST
    if manifest.exists() and not (job.output / HIDDEN).is_dir() and not job.overwrite:
        raise FileExistsError(f"{manifest} exists, without the records it would belong to; name another folder.")
    require_writable(job.output)


def refuse_other_results(job: Job, states: Mapping[str, str]) -> None:
    """Refuse to mix results of other settings with those to come.

    Args:
        job: what, and how.
        states: of :func:`states_of`.

    Raises:
        FileExistsError: there are such results, and ``overwrite`` is off.
    """
    other = [state for state in states.values() if state not in ("to do", "done", "unfit", "problem")]
    if other and not job.overwrite:
        raise FileExistsError(
            f"{job.output} holds {len(other)} of these studies restored otherwise ({other[0]}); "
            "name another output, or restore them again with `overwrite`, which removes what is there of them."
        )
