"""``medrestore restore``: one image or series, or all studies of a folder."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medrestore_monai.cli.options import (
    GapsOption,
    HUOffsetOption,
    InputArgument,
    OutputOption,
    SeriesOption,
    check_source,
)
from medrestore_monai.cli.output import RESEARCH, USAGE, console, printable, reported

if TYPE_CHECKING:
    from medrestore_monai.bundles import Bundle

OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace an output that exists; of many studies, those restored otherwise.")
]


def restore(
    source: InputArgument,
    output: OutputOption,
    bundle: Annotated[
        str, typer.Option(help="Name of the bundle, or its folder as a path: ./mine.")
    ] = "ct_denoise_restore_rwkv",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    strength: Annotated[float, typer.Option(min=0, max=1, help="0 keeps the input, 1 restores in full.")] = 1.0,
    precision: Annotated[str, typer.Option(help="float32, or bfloat16: faster, see the bundle's card.")] = "float32",
    backend: Annotated[
        str, typer.Option(help="What runs the network: torch, or onnx (onnxruntime, on the CPU).")
    ] = "torch",
    tile: Annotated[
        int | None,
        typer.Option(help="Side of tiles in pixels, a multiple of 8 or 16 above 128; by default whole slices."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of your own instead of the bundle's.")] = None,
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
        typer.Option(help="CT, MR or PT: of INPUT, where bundle and header do not tell.", show_default=False),
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
    overwrite: OverwriteOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the studies and what would be done.")] = False,
) -> None:
    """Restore images: DICOM, NIfTI, PNG, JPEG, TIFF or NumPy in, the same kind out.

    A DICOM series becomes a new, derived series in the same study. The source is never changed.

    A folder of several series or images, or a zip of several series, is many studies: each is restored on its own,
    OUTPUT/manifest.json tells what was done, and the same command again goes on where it stopped. One that cannot be
    restored does not stop the others; the exit code is 3 then. Several of these commands, or torchrun, share the work.

    Examples:
      medrestore restore scans/abdomen -o restored/abdomen

      medrestore restore volume.nii.gz -o restored.nii.gz --strength 0.7

      medrestore restore cohort/ -o restored/ --device cuda

      torchrun --nproc_per_node=2 -m medrestore_monai restore cohort/ -o restored/

      medrestore restore scan.zip -o restored --backend onnx --set mean_hu=correct
    """
    check_source(source)
    # PyTorch then asks Linux for large pages: a seventh less time for volumes, a tenth more memory
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    suv = {
        "factor": suv_factor,
        "weight": patient_weight,
        "dose": injected_dose,
        "half_life": half_life,
        "injection_time": injection_time,
    }
    with reported(USAGE):
        from medrestore_monai.bundles import PRECISIONS, check_backend, find_bundle
        from medrestore_monai.data import check_folder
        from medrestore_monai.restorer import check_options, check_settings, parse_settings

        if dry_run and series:
            raise ValueError("--dry-run lists studies and --series names one series: give one of the two.")
        if source.is_dir():
            check_folder(source, output)
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
        options: dict[str, Any] = {"strength": strength, "series_uid": series or "", "allow_gaps": allow_gaps}
        options |= {"progress": True, "precision": precision, **_suv_options(suv)}
        if backend != "torch":
            device = "cpu" if device == "auto" else device
            check_backend(backend, device, precision)
            options["backend"] = backend
        if tile is not None:
            options["tile"] = tile
        if weights is not None:
            if not weights.is_file():
                raise ValueError(f"the weight file {weights} is missing.")
            options["weights"] = weights
        found = find_bundle(bundle)
        config = json.loads(found.config("inference").read_text(encoding="utf-8"))
        if "suv" in options and "suv" not in config:
            raise ValueError(f"--suv-factor and what goes with it are for PET; {found.name} does not restore PET.")
        if hu_offset is not None:
            if "hu_offset" not in config or modality not in (None, "CT"):
                raise ValueError(f"--hu-offset is for CT, not for {modality or ', '.join(found.modalities)}.")
            options["hu_offset"] = hu_offset
        options |= _modality_option(found, modality, config)
        changes = parse_settings(settings or [])
        check_settings(found.config("inference"), changes)
        options |= changes
        check_options(found.config("inference"), device=device, **options)
    with reported():
        code = _restore_many(source, output, found, device, overwrite, dry_run, options)
        if code is None:
            code = _restore_one(source, output, found, device, overwrite, options)
    if code:  # not within: it is an error of its own kind
        raise typer.Exit(code)


def _modality_option(bundle: "Bundle", modality: str | None, config: dict[str, Any]) -> dict[str, Any]:
    """What a bundle of several modalities is told of images that have no DICOM header."""
    known = bundle.modalities
    steps = config.get("scaling", {}).get("transforms", [])
    if known == ("RGB",) and "modality" in config and not any(step.get("only") for step in steps):
        known = ("RGB", "CT", "MR", "PT")  # pictures, and whatever else can be scaled
    if modality is not None and modality not in known:
        raise ValueError(f"{bundle.name} restores {', '.join(known)}, not {modality}.")
    return {"modality": modality} if modality not in (None, "RGB") and len(known) > 1 else {}


def _suv_options(suv: dict[str, Any]) -> dict[str, Any]:
    """The options that were given; bad values are refused before a bundle is read."""
    given = {name: value for name, value in suv.items() if value is not None}
    if not given:
        return {}
    from medrestore_monai.dicom import SUVOptions

    SUVOptions.of(given)
    return {"suv": given}


def _restore_one(
    source: Path, output: Path, bundle: "Bundle", device: str, overwrite: bool, options: dict[str, Any]
) -> int:
    from medrestore_monai.restorer import restore as run

    results = run(source, output, bundle.config("inference"), device=device, overwrite=overwrite, **options)
    for result in results:
        console.print(printable(f"{result.source} -> {result.output}"), soft_wrap=True, markup=False)
    summary = f"Restored {len(results)} image(s) with {bundle.name}. {RESEARCH}"
    console.print(summary, soft_wrap=True, markup=False)
    return 0


def _restore_many(
    source: Path,
    output: Path,
    bundle: "Bundle",
    device: str,
    overwrite: bool,
    dry_run: bool,
    options: dict[str, Any],
) -> int | None:
    """Restore all studies of a source and return the exit code; ``None`` where there is one image to restore."""
    from medrestore_monai import studies as many
    from medrestore_monai.cli.studies import show_plan, show_results, told

    if options["series_uid"]:
        return 0 if many.shard()[0] else None  # of a torchrun, the first process restores it
    modalities = many.modalities_of(bundle)
    listed = many.list_studies(source, modalities)
    if not many.are_many(listed, output) and not dry_run:
        return 0 if many.shard()[0] else None  # of a torchrun, the first process restores it
    job = many.Job(
        source,
        output,
        bundle.config("inference"),
        many.settings_of(bundle, options),
        options,
        device,
        overwrite,
        modalities,
    )
    if dry_run:
        show_plan(job, listed)
        return 0
    with told(len(listed)) as report:
        records = many.restore_studies(job, listed, report)
    return show_results(records, job, bundle.name)
