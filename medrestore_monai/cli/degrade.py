"""``medrestore degrade``: simulate a degraded scan of clean images."""

import time
from typing import Annotated, Any

import typer

from medrestore_monai.cli.imports import importing
from medrestore_monai.cli.modes import USAGE, console, mode, write_document
from medrestore_monai.cli.options import (
    GapsOption,
    HUOffsetOption,
    InputArgument,
    OutputOption,
    OverwriteOption,
    SeriesOption,
    SliceAxisOption,
    StackOption,
    check_source,
    complete,
)
from medrestore_monai.cli.output import reported
from medrestore_monai.texts import printable

DEGRADATIONS = (
    "ct_low_dose, mri_kspace, pet_low_count, motion_blur, linear_motion_blur, bent_motion_blur, gaussian_blur, "
    "anisotropic_gaussian_blur, defocus_blur, varying_blur, sensor_noise, down_sampling, jpeg"
)


def degrade(
    source: InputArgument,
    output: OutputOption,
    task: Annotated[
        str,
        typer.Option(help=f"What to simulate: {DEGRADATIONS}.", autocompletion=complete(*DEGRADATIONS.split(", "))),
    ] = "ct_low_dose",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same images.")] = 0,
    dose: Annotated[
        float | None, typer.Option(help="ct_low_dose: fraction of the source's dose, in (0, 1]; 0.25 if not given.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="ct_low_dose: ray by ray, about 10 s a slice, not the fast method.")
    ] = False,
    axial_correlation: Annotated[
        float | None,
        typer.Option(help="ct_low_dose: of the noise of neighboring slices, 0..0.95; 0.3 if not given, 0 if exact."),
    ] = None,
    fraction: Annotated[
        float | None, typer.Option(help="mri_kspace: part of the lines kept along each axis; 0.25 if not given.")
    ] = None,
    drf: Annotated[
        float | None, typer.Option(help="pet_low_count: dose reduction factor, at least 1; 12 if not given.")
    ] = None,
    suv_factor: Annotated[
        float | None, typer.Option(help="pet_low_count: SUV per unit of INPUT, instead of the header's; 1 for files.")
    ] = None,
    axial_width: Annotated[
        float | None,
        typer.Option(
            help="pet_low_count: width in mm of the filter along the axis that correlates the noise of neighboring "
            "slices, 0 for none; 5 if not given."
        ),
    ] = None,
    length: Annotated[
        float | None,
        typer.Option(
            help="motion_blur: side of the kernel in pixels, else drawn from 20..45. linear_motion_blur: 3..9. "
            "bent_motion_blur: 3..31, along the path."
        ),
    ] = None,
    angle: Annotated[
        float | None,
        typer.Option(
            help="motion_blur: degrees, else drawn from -45..45. bent_motion_blur: 0..360, 0 is along X. "
            "linear_motion_blur, anisotropic_gaussian_blur: 0..180."
        ),
    ] = None,
    bend: Annotated[
        float | None,
        typer.Option(
            help="bent_motion_blur: root mean square of the direction about its mean, 0..180 degrees, else drawn from "
            "15..75."
        ),
    ] = None,
    sigma: Annotated[
        float | None, typer.Option(help="gaussian_blur: standard deviation in pixels, else drawn from 0.5..1.5.")
    ] = None,
    sigma_along: Annotated[
        float | None,
        typer.Option(help="anisotropic_gaussian_blur: standard deviation in pixels along --angle, else 0.5..5."),
    ] = None,
    sigma_across: Annotated[
        float | None, typer.Option(help="anisotropic_gaussian_blur: the same across it, else 0.5..5.")
    ] = None,
    radius: Annotated[
        float | None, typer.Option(help="defocus_blur: of the disk in pixels, else drawn from 1.5..15.5.")
    ] = None,
    width: Annotated[
        float | None, typer.Option(help="varying_blur: of the widest kernel in pixels, else drawn from 3..31.")
    ] = None,
    noise_std: Annotated[
        float | None,
        typer.Option(
            help="sensor_noise, and behind a blur: standard deviation in the unit of INPUT (HU, gray levels)."
        ),
    ] = None,
    factor: Annotated[
        int | None, typer.Option(help="down_sampling: pixels along each axis that become one, else drawn from 2..4.")
    ] = None,
    quality: Annotated[int | None, typer.Option(help="jpeg: 1..100, else drawn from 20..80.")] = None,
    lower: Annotated[
        float | None, typer.Option(help="jpeg: value of INPUT that becomes 0; by default the least there can be.")
    ] = None,
    upper: Annotated[
        float | None, typer.Option(help="jpeg: value of INPUT that becomes 255; by default the greatest.")
    ] = None,
    hu_offset: HUOffsetOption = None,
    slice_axis: SliceAxisOption = None,
    series: SeriesOption = None,
    stack: StackOption = 0,
    allow_gaps: GapsOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Simulate a degraded scan of clean images, to test a restoration against a known truth.

    What is not given is drawn for each image, from its name and the seed; it is printed, and noted in a DICOM header.

    Examples:
      medrestore degrade scans/abdomen -o quarter_dose --task ct_low_dose --dose 0.25 --seed 1

      medrestore degrade brain.nii.gz -o coarse.nii.gz --task mri_kspace --fraction 0.25

      medrestore degrade scans/abdomen -o quarter_dose --json > quarter_dose.json

      medrestore degrade chest.png -o moved.png --task motion_blur --length 30 --angle -20 --noise-std 2
    """
    check_source(source)
    settings = {"dose": dose, "exact": exact or None, "fraction": fraction, "length": length, "angle": angle}
    settings |= {"drf": drf, "suv_factor": suv_factor, "sigma": sigma, "noise_std": noise_std, "factor": factor}
    settings |= {"quality": quality, "lower": lower, "upper": upper}
    settings |= {"bend": bend, "sigma_along": sigma_along, "sigma_across": sigma_across, "radius": radius}
    settings |= {"width": width}
    settings |= {"axial_correlation": axial_correlation, "axial_width": axial_width}
    options: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    with reported(USAGE):
        with importing():
            from medrestore_monai.degrader import check_hu_offset, check_task
            from medrestore_monai.degrader import degrade as run

        check_task(task, options)
        check_hu_offset(task, hu_offset)
    with reported() as notes:
        options |= {"hu_offset": hu_offset, "slice_axis": slice_axis, "stack": stack}
        began = time.monotonic()
        simulated = run(source, output, task, seed, series or "", allow_gaps, overwrite, not mode().quiet, **options)
        images = [
            {"source": str(one.source), "output": str(one.output), "parameters": one.parameters} for one in simulated
        ]
        content = {"task": task, "seed": seed, "images": images, "notes": notes, "seconds": time.monotonic() - began}
        write_document("medrestore/degrade/1", content)
        for done in simulated:
            values = ", ".join(f"{name} {value}" for name, value in done.parameters.items())
            console.print(printable(f"simulated: {done.output} ({task}: {values})"), soft_wrap=True, markup=False)
