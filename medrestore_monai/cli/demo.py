"""``medrestore demo``: try everything once, on the real series that ships."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from medrestore_monai.cli.imports import importing
from medrestore_monai.cli.modes import USAGE, console, errors
from medrestore_monai.cli.options import OverwriteOption
from medrestore_monai.cli.output import RESEARCH, reported
from medrestore_monai.texts import printable


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder to write to.")] = Path("medrestore_demo"),
    overwrite: OverwriteOption = False,
) -> None:
    """Restore a real CT series from a simulated quarter of its dose; about a minute, nothing is downloaded.

    The 12 abdominal slices ship with this program (Colorectal-Liver-Metastases, CC BY 4.0); the weights were not
    trained on this patient. OUTPUT gets the DICOM series source, quarter_dose and restored, comparison.png, scores.csv.

    Example:
      medrestore demo -o medrestore_demo
    """
    begin = time.monotonic()
    with reported(USAGE):
        with importing():
            from medrestore_monai.demo.run import PICTURE, SCORES, check_demo, run_demo

        check_demo(output, overwrite)
    with reported():
        errors.print("Simulating a quarter of the dose, then restoring 12 slices ...")
        scores = run_demo(output, overwrite, progress=True)
    table = Table("image", "PSNR (dB)", "SSIM", "RMSE (HU)", title="Against the source, window -160..240 HU")
    for name, row in scores.items():
        table.add_row(escape(name), f"{row['psnr']:.2f}", f"{row['ssim']:.4f}", f"{row['rmse']:.2f}")
    console.print(table)
    for what, name in (("Restored DICOM series", "restored"), ("Picture", PICTURE), ("Scores", SCORES)):
        console.print(printable(f"{what}: {output / name}"), soft_wrap=True, markup=False)
    console.print(f"{time.monotonic() - begin:.0f} seconds. The low dose is simulated. {RESEARCH}", soft_wrap=True)
