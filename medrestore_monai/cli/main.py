"""The ``medrestore`` command: parse, call, print. Nothing heavy is imported before a command runs."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from medrestore_monai import __version__
from medrestore_monai.cli.adapt import adapt
from medrestore_monai.cli.audit import audit
from medrestore_monai.cli.bundles import bundles_app
from medrestore_monai.cli.degrade import degrade
from medrestore_monai.cli.demo import demo
from medrestore_monai.cli.imports import importing
from medrestore_monai.cli.modes import USAGE, JsonGroup, console, errors, mode, reporting, write_document
from medrestore_monai.cli.options import (
    DeviceOption,
    GapsOption,
    HUOffsetOption,
    OverwriteOption,
    TrustOption,
    WeightsOption,
    check_source,
    complete,
    complete_bundle,
    refuse_own_options,
)
from medrestore_monai.cli.output import EVALUATE_FLAGS, RESEARCH, reported
from medrestore_monai.cli.restore import restore
from medrestore_monai.notes import note
from medrestore_monai.stopping import stop_on_sigterm, stopping_at_once
from medrestore_monai.texts import printable

app = typer.Typer(
    cls=JsonGroup,
    help="Restore medical images: DICOM, NIfTI, PNG, JPEG or TIFF in, the same kind out, same units and geometry. "
    "For research only: not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bundles_app, name="bundles")

app.command()(reporting("json", "record", "quiet")(restore))
app.command()(reporting("quiet")(adapt))
app.command()(reporting("quiet")(audit))
app.command()(reporting("json", "record", "quiet")(degrade))
app.command()(reporting("quiet")(demo))


@app.callback()
def _clean_up_when_terminated() -> None:
    """Turn SIGTERM into an exit that takes temporary folders along, as Ctrl-C does."""
    stop_on_sigterm()


@app.command()
@reporting("json", "record", "quiet")
def evaluate(
    data: Annotated[Path, typer.Option("--data", help="Folder of images; see --layout.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for the report.")],
    bundle: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or path of a bundle; several side by side; by default, ct_denoise_restore_rwkv.",
            show_default=False,
            autocompletion=complete_bundle,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="LABEL=BUNDLE,OVERLAY.json,WEIGHTS.pt: a bundle's recipe with another network or other weights; "
            "several side by side.",
            show_default=False,
        ),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(
            help="CT, MR or PT: of DATA, for bundles of several modalities.",
            show_default=False,
            autocompletion=complete("CT", "MR", "PT"),
        ),
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            help="clean, ixi, medmnist (degraded on the fly); paired, gopro, realblur, low-dose-ct.",
            autocompletion=complete("clean", "ixi", "medmnist", "paired", "gopro", "realblur", "low-dose-ct"),
        ),
    ] = "clean",
    part: Annotated[
        str,
        typer.Option(
            help="all, train, validation, calibration, adaptation or test.",
            autocompletion=complete("all", "train", "validation", "calibration", "adaptation", "test"),
        ),
    ] = "all",
    protocol: Annotated[
        str,
        typer.Option(
            help="standard, restore-rwkv, meddeblur, aff or mlff.",
            autocompletion=complete("standard", "restore-rwkv", "meddeblur", "aff", "mlff"),
        ),
    ] = "standard",
    baselines: Annotated[
        str, typer.Option(help="Classical methods to compare with: auto, none, or names separated by commas.")
    ] = "auto",
    tuned: Annotated[
        Path | None,
        typer.Option(
            help="Their parameters, from scripts/calibrate/tune_classical.py, instead of the bundle's own.",
            show_default=False,
        ),
    ] = None,
    oracle: Annotated[
        bool,
        typer.Option(
            "--oracle/--no-oracle",
            help="Also score them with the parameters that are best for each image; 10 to 50 times as slow.",
        ),
    ] = False,
    lesions: Annotated[
        bool,
        typer.Option(
            "--lesions/--no-lesions",
            help="Of CT, PET and MR: plant known lesions before the degradation, and report what is left of them "
            "instead of scores.",
        ),
    ] = False,
    against: Annotated[str, typer.Option(help="The method that p-values compare with.")] = "input",
    seed: Annotated[int, typer.Option(min=0, help="Of the fixed degradation and the intervals.")] = 0,
    device: DeviceOption = "auto",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Score this many slices, evenly spread; the others are neighbors.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help='Change a setting, such as dose=0.1; "medrestore bundles show" lists them.',
            show_default=False,
        ),
    ] = None,
    hu_offset: HUOffsetOption = None,
    allow_gaps: GapsOption = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out bad images, and list them.")] = False,
    trust_bundle: TrustOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Score bundles, classical baselines and the input side by side: tables, worst cases, times.

    Clean images are degraded as the (first) bundle's evaluate.json says, the same way in every run. A bundle of several
    modalities joins those of one; alone, it takes DATA/CT, DATA/MR, ..., or one --modality. Classical methods in 3D get
    whole volumes; those against noise take their parameters from the noise level of the image, as tuned for the bundle.

    Examples:
      medrestore evaluate --bundle ct_denoise_restore_rwkv --data scans/ -o report

      medrestore evaluate --bundle ct_denoise_restore_rwkv --data scans/ -o report --json --quiet

      medrestore evaluate --bundle ct_denoise_restore_rwkv --bundle all_in_one_restore_rwkv --data scans/ -o report

      medrestore evaluate --model base=ct_denoise_restore_rwkv,base.json,runs/base/model.pt --data scans/ -o report

      medrestore evaluate --bundle ./mine --data GOPRO_Large --layout gopro --part test --protocol mlff -o report

      medrestore evaluate --bundle ct_denoise_restore_rwkv --data scans/ --lesions --limit 8 -o report
    """
    check_source(data)
    with reported(USAGE, EVALUATE_FLAGS):
        with importing():
            from medrestore_monai.bundles import DEFAULT_BUNDLE
            from medrestore_monai.bundles.settings import parse_settings
            from medrestore_monai.evaluate import Request
            from medrestore_monai.evaluate import evaluate as score
            from medrestore_monai.evaluate.lesions import check_lesions, evaluate_lesions

        changes = parse_settings(settings or [])
        refuse_own_options(changes, EVALUATE_FLAGS)
        request = Request(
            bundles=bundle or ([] if model else [DEFAULT_BUNDLE]),
            models=model or [],
            modality=modality,
            data=data,
            output=output,
            layout=layout,
            part=part,
            protocol=protocol,
            baselines=baselines,
            tuned=tuned,
            oracle=oracle,
            against=against,
            seed=seed,
            device=device,
            limit=limit,
            settings=changes,
            hu_offset=hu_offset,
            allow_gaps=allow_gaps,
            skip_bad=skip_bad,
            overwrite=overwrite,
            trust_bundle=trust_bundle,
        )
        (check_lesions if lesions else Request.check)(request)
        if not bundle and not model:
            note(f"no bundle is named: {DEFAULT_BUNDLE} is scored, on images of CT.")
    with reported(flags=EVALUATE_FLAGS), stopping_at_once():
        (evaluate_lesions if lesions else score)(request, progress=not mode().quiet)
        content = json.loads((output / "table.json").read_text(encoding="utf-8"))
        write_document(content.pop("schema"), {**content, "output": str(output)})
        console.print((output / "table.md").read_text(encoding="utf-8"), soft_wrap=True, markup=False, highlight=False)
        console.print(printable(f"Report: {output}. {RESEARCH}"), soft_wrap=True, markup=False)


@app.command()
@reporting("quiet")
def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write, such as model.onnx.")],
    bundle: Annotated[
        str, typer.Option(help="Name of the bundle, or its folder as a path: ./mine.", autocompletion=complete_bundle)
    ] = "ct_denoise_restore_rwkv",
    weights: WeightsOption = None,
    trust_bundle: TrustOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a bundle's network as an ONNX file, for other programs; about a minute.

    Its input "image" and output "pred" have the shape (batch, channels, height, width), of any size, scaled as the
    bundle's card lists. To restore with onnxruntime here, "medrestore restore --backend onnx" needs no such file.

    Examples:
      medrestore export -o ct_denoise.onnx

      medrestore export --bundle ./my_bundle --weights runs/model.pt -o mine.onnx --overwrite
    """
    with reported(USAGE):
        with importing():
            from medrestore_monai.bundles import export_bundle, open_bundle
            from medrestore_monai.bundles.onnx import TO_WRITE, require_packages

        require_packages(TO_WRITE)
        if output.exists() and not overwrite:
            raise FileExistsError(f"{output} exists; --overwrite replaces it.")
        if output.suffix != ".onnx":
            raise ValueError(f"{output} must end with .onnx.")
        if not output.absolute().parent.is_dir() or output.is_dir():
            raise ValueError(f"{output} is no file in an existing folder.")
        found = open_bundle(bundle, trust_bundle)
        if weights is not None and not weights.is_file():
            raise ValueError(f"the weight file {weights} is missing.")
        if output.resolve() == (weights or found.weights).resolve():
            raise ValueError(f"{output} is the weight file; name another output.")
    with reported(), stopping_at_once():
        if not mode().quiet:
            errors.print(f"Exporting {found.name}: this takes a minute or more.", soft_wrap=True, markup=False)
        export_bundle(found, output, weights)
    console.print(printable(f"{found.name} -> {output}. {RESEARCH}"), soft_wrap=True, markup=False)


@app.command()
@reporting("json")
def doctor() -> None:
    """Show what this installation can do: versions, devices, the Bi-WKV backend, DICOM decoders, bundles.

    Examples:
      medrestore doctor

      medrestore doctor --json
    """
    with reported():
        from medrestore_monai.cli.doctor import describe, examine

        found = examine()
        write_document("medrestore/doctor/1", found)
        table = Table("what", "state", title=f"medrestore-monai {__version__}")
        for name, state in describe(found):
            table.add_row(escape(name), escape(state))
        console.print(table)
