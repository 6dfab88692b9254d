"""``medrestore adapt``: fit a bundle to one's own scanner, and judge whether it helped."""

from pathlib import Path
from typing import Annotated

import typer

from medrestore_monai.cli.imports import importing
from medrestore_monai.cli.modes import USAGE, console, mode
from medrestore_monai.cli.options import (
    DeviceOption,
    GapsOption,
    HUOffsetOption,
    OverwriteOption,
    TrustOption,
    check_source,
    complete,
    complete_bundle,
)
from medrestore_monai.cli.output import ADAPT_FLAGS, RESEARCH, reported
from medrestore_monai.stopping import stopping_at_once
from medrestore_monai.texts import printable

DEFAULT_MINUTES = 30.0


def adapt(
    data: Annotated[Path, typer.Argument(help="Folder of images of one site; of pairs, with folders LQ and HQ.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for the bundle, which names it.")],
    bundle: Annotated[
        str,
        typer.Option(
            "--from",
            help="The bundle to begin with, by name, or by its folder: ./mine.",
            autocompletion=complete_bundle,
        ),
    ] = "ct_denoise_restore_rwkv",
    targets: Annotated[
        str,
        typer.Option(
            help="clean: routine images, degraded by the bundle's simulation; pairs: degraded and clean; "
            "none: noisy CT or PET alone, whose noise is measured, and which are judged by estimated errors.",
            autocompletion=complete("clean", "pairs", "none"),
        ),
    ] = "clean",
    modality: Annotated[
        str | None,
        typer.Option(help="CT, MR or PT, for a bundle of several modalities.", show_default=False),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="That it may take, verdict included; 30 if not given.", show_default=False)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the training, instead of --minutes.", show_default=False)
    ] = None,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the division of the images and of the training.")] = 0,
    hu_offset: HUOffsetOption = None,
    allow_gaps: GapsOption = False,
    overwrite: OverwriteOption = False,
    trust_bundle: TrustOption = False,
) -> None:
    """Fine-tune a bundle on images of one's own scanner, and judge it on images that did not train.

    The adapted weights are adopted only if they are better beyond chance; then OUTPUT is a bundle that every command
    takes. Else the shipped weights are to be kept, and only the report is written, beside OUTPUT. No image and no name
    goes into either. Repeat the command to resume a run that was stopped.

    Examples:
      medrestore adapt scans/ -o my_bundle

      medrestore adapt pet_scans/ -o my_bundle --from pet_synthesis_restore_rwkv --minutes 60

      medrestore adapt paired/ -o my_bundle --targets pairs --steps 1000

      medrestore adapt low_dose/ -o my_bundle --targets none
    """
    check_source(data)
    with reported(USAGE, ADAPT_FLAGS):
        with importing():
            from medrestore_monai.adapt import Request, run_request

        if minutes is not None and steps is not None:
            raise ValueError("give --minutes or --steps, not both.")
        request = Request(
            data=data,
            output=output,
            bundle=bundle,
            targets=targets,
            modality=modality,
            minutes=DEFAULT_MINUTES if minutes is None and steps is None else minutes,
            steps=steps,
            device=device,
            seed=seed,
            hu_offset=hu_offset,
            allow_gaps=allow_gaps,
            overwrite=overwrite,
            trust_bundle=trust_bundle,
        )
        request.check()
    with reported(flags=ADAPT_FLAGS), stopping_at_once():
        done = run_request(request, progress=not mode().quiet)
    console.print(printable(done.decision.line), soft_wrap=True, markup=False)
    written = f"Bundle: {done.output}. " if done.adopted else "No bundle was written. "
    console.print(
        printable(f"{written}Report: {done.report / 'report.html'}. {RESEARCH}"), soft_wrap=True, markup=False
    )
