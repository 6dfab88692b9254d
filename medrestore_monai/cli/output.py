"""What the commands print: results, notes, and one sentence where something went wrong, with its exit code."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from medrestore_monai.files import DataError, UsageError
from medrestore_monai.notes import Notes
from medrestore_monai.texts import one_line, printable

USAGE, BAD_DATA = 2, 3
RESEARCH = "For research, not a medical device."

#: The option that sets a field of the library.
FLAGS = {
    "allow_gaps": "--allow-gaps",
    "backend": "--backend",
    "bundle_root": "--bundle",
    "device": "--device",
    "half_life": "--half-life",
    "hu_offset": "--hu-offset",
    "injected_dose": "--injected-dose",
    "injection_time": "--injection-time",
    "modality": "--modality",
    "output_dir": "--output",
    "overwrite": "--overwrite",
    "part": "--part",
    "patient_weight": "--patient-weight",
    "precision": "--precision",
    "seed": "--seed",
    "series_uid": "--series",
    "workers": "--workers",
    "slice_axis": "--slice-axis",
    "strength": "--strength",
    "suv_factor": "--suv-factor",
    "tile": "--tile",
    "weights": "--weights",
    "weights_url": "--weights-url",
}
_OF_EVALUATE = ("allow_gaps", "device", "hu_offset", "modality", "output_dir", "overwrite", "part", "seed")
EVALUATE_FLAGS = {name: FLAGS[name] for name in _OF_EVALUATE}
AUDIT_FLAGS = {name: FLAGS[name] for name in ("hu_offset", "modality", "overwrite", "series_uid", "suv_factor")}
RESTORE_FLAGS = {name: flag for name, flag in FLAGS.items() if name not in ("part", "seed", "weights_url")}

console = Console()
errors = Console(stderr=True, highlight=False)


def fail(message: str, code: int = BAD_DATA) -> typer.Exit:
    """Print one sentence to the error stream and return the exit to raise."""
    errors.print(f"[red]Error:[/red] {escape(printable(message))}", soft_wrap=True)
    return typer.Exit(code)


@contextmanager
def reported(code: int = BAD_DATA, flags: Mapping[str, str] = FLAGS) -> Iterator[None]:
    """Turn what a user can mend into one sentence and an exit code; let our own mistakes through.

    Args:
        code: of the exit.
        flags: the options of the command, by the fields that messages name.
    """

    def print_note(message: str) -> None:
        errors.print(f"[yellow]Note:[/yellow] {escape(one_line(with_flags(message, flags)))}", soft_wrap=True)

    with warnings.catch_warnings(), Notes(print_note):
        warnings.filterwarnings("ignore", module=r"(monai|ignite|torch|pydicom)\b")
        warnings.showwarning = lambda message, *_: print_note(str(message))
        try:
            yield
        except DataError as error:
            raise fail(_sentence(error), BAD_DATA) from error
        except (FileExistsError, UsageError) as error:
            raise fail(with_flags(_sentence(error), flags), USAGE) from error
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            from medrestore_monai.bundles import WeightsError

            code = BAD_DATA if isinstance(error, WeightsError) else code  # a file, whenever it is read
            raise fail(with_flags(_sentence(error), flags), code) from error


def with_flags(message: str, flags: Mapping[str, str] = FLAGS) -> str:
    """Put options in place of the fields that a message has in backquotes; what has none is a ``--set``."""

    def flag(field: re.Match[str]) -> str:
        name, value = field[1], field[2]
        if name in flags:
            return f"{flags[name]} {value or ''}".strip()
        return f"--set {name}={value or 'VALUE'}" if value or name in FLAGS else field[0]

    return re.sub(r"`([a-z]\w*)(?:=([^`\s]+))?`", flag, message)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}."
    if isinstance(error, MemoryError):
        return "there is too little memory for this image."
    return one_line(str(error))
