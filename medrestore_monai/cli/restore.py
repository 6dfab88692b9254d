"""``medrestore restore``: one image or series, or all studies of a folder."""

import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medrestore_monai.cli.choice import READABLE, choose_bundle
from medrestore_monai.cli.cluster import check_workers, refuse_torchrun, warn_without_tls
from medrestore_monai.cli.imports import importing
from medrestore_monai.cli.modes import USAGE, console, detail, mode, write_document
from medrestore_monai.cli.options import (
    DeviceOption,
    GapsOption,
    HighBitsOption,
    HUOffsetOption,
    InputArgument,
    OutputOption,
    SeriesOption,
    SliceAxisOption,
    SplitOption,
    StackOption,
    TrustOption,
    WeightsOption,
    check_source,
    complete,
    complete_bundle,
    refuse_own_options,
)
from medrestore_monai.cli.output import RESEARCH, RESTORE_FLAGS, reported
from medrestore_monai.notes import note
from medrestore_monai.stopping import stopping_at_once
from medrestore_monai.texts import printable

if TYPE_CHECKING:
    from medrestore_monai.restorer import Restorer
    from medrestore_monai.studies import Job, Study, Workers

OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace an output that exists; of many studies, those restored otherwise.")
]


def restore(
    source: InputArgument,
    output: OutputOption,
    bundle: Annotated[
        str | None,
        typer.Option(
            help="Name of the bundle, or its folder as a path: ./mine; by default the one for CT or PET.",
            show_default=False,
            autocompletion=complete_bundle,
        ),
    ] = None,
    device: DeviceOption = "auto",
    strength: Annotated[float, typer.Option(min=0, max=1, help="0 keeps the input, 1 restores in full.")] = 1.0,
    limit_change: Annotated[
        float | None,
        typer.Option(
            min=4,
            help="Hold back what differs from the source by more than so many noise standard deviations, of a voxel or "
            "smoothed; 5 is what an audit flags.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="float32, or bfloat16: faster, see the bundle's card.", autocompletion=complete("float32", "bfloat16")
        ),
    ] = "float32",
    backend: Annotated[
        str,
        typer.Option(
            help="What runs the network: torch, or onnx (onnxruntime, on the CPU).",
            autocompletion=complete("torch", "onnx"),
        ),
    ] = "torch",
    tile: Annotated[
        int | None,
        typer.Option(help="Side of tiles in pixels, a multiple of 8 or 16 above 128; by default whole slices."),
    ] = None,
    weights: WeightsOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a value of the bundle's inference.json, such as mean_hu=off; its card names them.",
            show_default=False,
        ),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(
            help="CT, MR or PT: of INPUT, if neither bundle nor header names it.",
            show_default=False,
            autocompletion=complete("CT", "MR", "PT"),
        ),
    ] = None,
    suv_factor: Annotated[
        float | None, typer.Option(help="PET: SUV per unit of INPUT, instead of the header's; for NIfTI in Bq/ml.")
    ] = None,
    patient_weight: Annotated[float | None, typer.Option(help="PET: kg, in place of the header's.")] = None,
    injected_dose: Annotated[float | None, typer.Option(help="PET: Bq, such as 370e6.")] = None,
    injection_time: Annotated[
        str | None, typer.Option(help="PET: HHMMSS or, for long half lives, YYYYMMDDHHMMSS.")
    ] = None,
    half_life: Annotated[float | None, typer.Option(help="PET: seconds, 6586.2 for F-18.")] = None,
    hu_offset: HUOffsetOption = None,
    series: SeriesOption = None,
    allow_gaps: GapsOption = False,
    stack: StackOption = 0,
    split_series: SplitOption = False,
    high_bits: HighBitsOption = "auto",
    slice_axis: SliceAxisOption = None,
    trust_bundle: TrustOption = False,
    overwrite: OverwriteOption = False,
    report: Annotated[
        bool, typer.Option("--report", help="Audit each result as well, see `medrestore audit`.", show_default=False)
    ] = False,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Of many studies: processes that share them, one per GPU where there are several."),
    ] = 1,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Of many studies: a running Dask scheduler, tls://HOST:PORT.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the studies and what would be done.")] = False,
) -> None:
    r"""Restore images: DICOM, NIfTI, MGZ, NRRD, MHA, PNG, JPEG, TIFF or NumPy in, the same kind out.

    A DICOM series becomes a new, derived series in the same study. The source is never changed.

    Without --bundle, CT and PET series have a default; MR, pictures, and files that do not state their modality have
    none, and the candidates are listed.

    A folder of several series or images, or a zip of several series, is many studies: each is restored on its own,
    OUTPUT/manifest.json lists what was done; re-run to resume. One that cannot be restored does not stop the others;
    the exit code is 3 then. --workers and --scheduler share the work among processes; they need
    pip install "medrestore-monai\[cluster]".

    --report writes what `medrestore audit` finds: of one image beside it, to OUTPUT_report, of many studies to
    OUTPUT/report, where index.html lists those first that need a look.

    Examples:
      medrestore restore scans/abdomen -o restored/abdomen

      medrestore restore ct.nii.gz -o restored.nii.gz --modality CT --strength 0.7 --report

      medrestore restore t1.nii.gz -o sharp.nii.gz --bundle mri_superresolution_restore_rwkv

      medrestore restore cohort/ -o restored/ --device cuda

      medrestore restore cohort/ -o restored/ --workers 4

      medrestore restore scans/abdomen -o restored/abdomen --json > record.json

      medrestore restore scan.zip -o restored --backend onnx --set mean_hu=correct
    """
    check_source(source)
    # PyTorch then asks Linux for large pages: a seventh less time for volumes, a tenth more memory
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with reported(USAGE, RESTORE_FLAGS):
        with importing():
            from medrestore_monai.bundles.settings import parse_settings
            from medrestore_monai.data import check_folder
            from medrestore_monai.restorer import Restorer
            from medrestore_monai.studies import Workers, are_many, list_studies, make_job

        refuse_torchrun()
        check_workers(workers, scheduler)
        if dry_run and series:
            raise ValueError("--dry-run lists studies and --series names one series: give one of the two.")
        if source.is_dir():
            check_folder(source, output)
        changes = parse_settings(settings or [])
        refuse_own_options(changes, RESTORE_FLAGS)
    listed: Sequence[Study] | None = None
    if bundle is None:
        with reported(flags=RESTORE_FLAGS):
            bundle, listed = _choose(source, output, modality, series)
    with reported(USAGE, RESTORE_FLAGS):
        options: dict[str, Any] = {
            "strength": strength,
            "limit_change": limit_change,
            "tile": tile,
            "modality": modality,
            "suv_factor": suv_factor,
            "patient_weight": patient_weight,
            "injected_dose": injected_dose,
            "injection_time": injection_time,
            "half_life": half_life,
            "hu_offset": hu_offset,
            "slice_axis": slice_axis,
            "series_uid": series or "",
            "allow_gaps": allow_gaps,
            "stack": stack,
            "split_series": split_series,
            "high_bits": high_bits,
            **changes,
        }
        opening = partial(
            Restorer,
            Path(bundle).absolute() if os.sep in bundle else bundle,  # workers have other working folders
            precision=precision,
            backend=backend,
            weights=weights and weights.absolute(),
            trust_bundle=trust_bundle,
            **options,
        )
        shared = (workers > 1 or scheduler) and not series
        restorer = opening(device="cpu" if shared else device)
        _detail(restorer)
    with reported(flags=RESTORE_FLAGS):
        several = Workers(partial(opening, device=device), workers, scheduler or "", device) if shared else None
        job = make_job(source, output, restorer, overwrite, report)
        if listed is None:
            listed = [] if series and not mode().is_recorded else list_studies(source, job.modalities)
        if series:
            listed = [study for study in listed if study.series_uid == series]
        if not series and (dry_run or are_many(listed, output)):
            code = _restore_many(job, listed, dry_run, several)
        else:
            code = _restore_one(job, opening(device=device) if shared else restorer, listed, series or "")
    if code:  # not within: it is an error of its own kind
        raise typer.Exit(code)


def _choose(
    source: Path, output: Path, modality: str | None, series: str | None
) -> "tuple[str, Sequence[Study] | None]":
    """Return the default bundle, and the list of studies if it holds for that bundle, too."""
    from medrestore_monai.studies import list_studies

    studies = list_studies(source, READABLE)
    bundle = choose_bundle(source, output, modality, [one for one in studies if series in (None, one.series_uid)])
    # the reasons of those that do not fit name every modality: they are listed anew for this bundle
    return bundle, None if any(study.unfit for study in studies) else studies


def _detail(restorer: "Restorer") -> None:
    bundle, digest = restorer.bundle, restorer.weights_sha256
    detail(f"{bundle.name} {bundle.metadata['version']} from {bundle.root}, weights SHA-256 {digest}.")
    detail(f"Opened on {restorer.device} with {json.dumps(restorer.settings, default=str)}.")


def _restore_one(job: "Job", restorer: "Restorer", listed: "Sequence[Study]", series_uid: str) -> int:
    from medrestore_monai.studies import SCHEMA, records_of

    if job.report:
        from medrestore_monai.audit.writing import check_output, report_folder

        check_output(report_folder(job.output), job.source, job.output, job.overwrite)
    result = restorer.restore_file(job.source, job.output, overwrite=job.overwrite, progress=not mode().quiet)
    for image, restored in zip(result.sources, result.outputs, strict=True):
        console.print(printable(f"{image} -> {restored}"), soft_wrap=True, markup=False)
        if job.report:
            _write_report(job, restorer, image, restored, series_uid)
    summary = f"Restored {len(result.outputs)} image(s) with {restorer.bundle.name}. {RESEARCH}"
    console.print(summary, soft_wrap=True, markup=False)
    write_document(SCHEMA, {"studies": records_of(result, listed, restorer)})
    return 0


def _write_report(job: "Job", restorer: "Restorer", image: Path, restored: Path, series_uid: str) -> None:
    """Audit a result; one that cannot be audited stays, with a note, as in a cohort."""
    from medrestore_monai.audit.writing import audit_restoration, report_folder, write_audit

    folder = report_folder(restored)
    try:
        done = audit_restoration(restorer, image, restored, series_uid)
    except ValueError as error:
        note(f"{restored}: there is no report: {error}")
        return
    write_audit(done, folder, job.overwrite)
    words = f"{done.verdict.light}: {'; '.join(done.verdict.reasons)}. Report: {folder / 'audit.html'}"
    for line in (words, done.scope.line):
        console.print(printable(line), soft_wrap=True, markup=False)


def _restore_many(job: "Job", listed: "Sequence[Study]", dry_run: bool, workers: "Workers | None") -> int:
    """Restore all studies of a source and return the exit code."""
    from medrestore_monai.cli.studies import show_plan, show_results, shown_progress
    from medrestore_monai.studies import restore_studies

    if dry_run:
        show_plan(job, listed)
        return 0
    if workers is not None:
        warn_without_tls(workers.scheduler)
    # what waits for workers does not look
    with shown_progress(len(listed)) as show, stopping_at_once() if workers else nullcontext():
        records = restore_studies(job, listed, show, workers)
    return show_results(records, job, job.restorer.bundle.name)
