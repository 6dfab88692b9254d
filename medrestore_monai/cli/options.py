"""Arguments and options that several commands share."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from medrestore_monai.cli.modes import USAGE
from medrestore_monai.cli.output import reported
from medrestore_monai.files import is_regular


def complete(*words: str) -> Callable[[str], list[str]]:
    """Return what completes one of some words for a shell."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def complete_bundle(incomplete: str) -> list[str]:
    """Complete the name of a bundle for a shell."""
    from medrestore_monai.bundles import list_bundles

    with suppress(ValueError):  # one of them is damaged
        return [bundle.name for bundle in list_bundles() if bundle.name.startswith(incomplete)]
    return []


InputArgument = Annotated[
    Path, typer.Argument(help="DICOM file, folder or zip; NIfTI, MGZ, NRRD, MHA, PNG, JPEG, TIFF, NumPy; or a folder.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Where to write; the kind stays that of INPUT.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
SeriesOption = Annotated[str | None, typer.Option("--series", help="SeriesInstanceUID, where INPUT holds several.")]
GapsOption = Annotated[bool, typer.Option("--allow-gaps", help="Take a DICOM series with missing slices.")]
StackOption = Annotated[
    int,
    typer.Option(
        "--stack", min=0, help="Of a DICOM series of several stacks (echoes, phases): this one, from 1; 0 for all."
    ),
]
SplitOption = Annotated[bool, typer.Option("--split-series", help="Make a DICOM series of each stack.")]
HighBitsOption = Annotated[
    str,
    typer.Option(
        "--high-bits",
        help="DICOM values beyond the bits that the header declares: auto refuses overflow and ignores other bits, "
        "keep takes all bits, ignore the declared ones.",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto, cpu, cuda, cuda:N, or mps: Apple's GPU, in float32, not tested on one; auto never takes it.",
        autocompletion=complete("auto", "cpu", "cuda", "mps"),
    ),
]
WeightsOption = Annotated[Path | None, typer.Option("--weights", help="Weights of your own instead of the bundle's.")]
TrustOption = Annotated[
    bool,
    typer.Option("--trust-bundle", help="Run a bundle from elsewhere whatever it holds: its author can run any code."),
]
HUOffsetOption = Annotated[
    float | None,
    typer.Option(
        "--hu-offset",
        help="CT: what to add to INPUT's numbers to make them HU, -1024 for stored values, 0 if they are; for files "
        "without a value below 0, which are refused without it. DICOM is trusted.",
        show_default=False,
    ),
]
SliceAxisOption = Annotated[
    int | None,
    typer.Option(
        "--slice-axis",
        min=0,
        max=2,
        help="NIfTI: axis (0, 1 or 2) that the slices of a volume lie across; by default as its header says.",
        show_default=False,
    ),
]


def check_source(source: Path) -> None:
    """Refuse a source that is not there, or that the system does not look up, such as a name that is too long.

    Raises:
        typer.Exit: with one sentence.
    """
    with reported(USAGE):
        if not source.exists():
            raise ValueError(f"there is no file or folder {source}.")
        if not source.is_dir() and not is_regular(source):
            raise ValueError(f"{source} is a pipe, a socket or a device: give a file or a folder.")


def refuse_own_options(settings: Mapping[str, Any], flags: Mapping[str, str]) -> None:
    """Refuse settings of ``--set`` that have an option of their own.

    Args:
        settings: by name.
        flags: the options of the command, by name.

    Raises:
        ValueError: one has.
    """
    for name in settings:
        if name in flags:
            raise ValueError(f"{name} is not set by --set but by {flags[name]}.")
