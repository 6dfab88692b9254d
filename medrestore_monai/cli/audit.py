"""``medrestore audit``: is a restored image to be trusted?"""

from pathlib import Path
from typing import Annotated

import typer

from medrestore_monai.cli.imports import importing
from medrestore_monai.cli.modes import USAGE, console
from medrestore_monai.cli.options import (
    HUOffsetOption,
    OverwriteOption,
    SeriesOption,
    SliceAxisOption,
    StackOption,
    TrustOption,
    check_source,
)
from medrestore_monai.cli.output import AUDIT_FLAGS, RESEARCH, reported
from medrestore_monai.stopping import stopping_at_once
from medrestore_monai.texts import printable


def audit(
    source: Annotated[Path, typer.Argument(help="The image or DICOM series that was restored.")],
    restored: Annotated[Path, typer.Argument(help="The result, of the same kind and on the same grid.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for audit.html and audit.json.")],
    bundle: Annotated[
        str | None,
        typer.Option(
            help="What restored it, by name or folder, for its training data; by default, what a DICOM header names.",
            show_default=False,
        ),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(help="CT, MR or PT, where neither a header nor the bundle states it.", show_default=False),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Of the change over noise, above which a region is flagged; by default the bundle's own, or else 5.",
            show_default=False,
        ),
    ] = None,
    suv_factor: Annotated[
        float | None, typer.Option(help="PET: SUV per unit of both images, instead of the header's.")
    ] = None,
    hu_offset: HUOffsetOption = None,
    series: SeriesOption = None,
    stack: StackOption = 0,
    slice_axis: SliceAxisOption = None,
    overwrite: OverwriteOption = False,
    trust_bundle: TrustOption = False,
) -> None:
    """Compare a restored image with its source: noise, sharpness, bias, scope, and changes that noise does not explain.

    OUTPUT/audit.html is one file with images, plots, tables and a traffic light with reasons; it opens without a
    network. OUTPUT/audit.json has every figure with its unit and method.

    Examples:
      medrestore audit scans/abdomen restored/abdomen -o report

      medrestore audit pet.nii.gz restored.nii.gz -o report --bundle pet_synthesis_restore_rwkv
    """
    check_source(source)
    check_source(restored)
    with reported(USAGE, AUDIT_FLAGS):
        with importing():
            from medrestore_monai.audit.writing import check_output, write_audit
            from medrestore_monai.bundles import open_bundle
            from medrestore_monai.intensity import INTENSITY_RANGES

        check_output(output, source, restored, overwrite)
        if threshold is not None and not threshold > 0:
            raise ValueError(f"--threshold must be above 0, got {threshold}.")
        if modality is not None and modality not in INTENSITY_RANGES:
            raise ValueError(f"--modality must be one of {', '.join(INTENSITY_RANGES)}, got {modality!r}.")
        found = None if bundle is None else open_bundle(bundle, trust_bundle, configs=())
    with reported(flags=AUDIT_FLAGS), stopping_at_once():
        from medrestore_monai.audit import audit as run

        done = run(
            source,
            restored,
            bundle=found,
            threshold=threshold,
            modality=modality,
            series_uid=series or "",
            stack=stack,
            slice_axis=slice_axis,
            hu_offset=hu_offset,
            suv=None if suv_factor is None else {"factor": suv_factor},
        )
        write_audit(done, output, overwrite)
    console.print(printable(f"{done.verdict.light}: {'; '.join(done.verdict.reasons)}."), soft_wrap=True, markup=False)
    console.print(printable(f"{done.scope.line}"), soft_wrap=True, markup=False)
    console.print(printable(f"Report: {output / 'audit.html'}. {RESEARCH}"), soft_wrap=True, markup=False)
