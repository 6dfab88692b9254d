"""What the commands print: results, notes, and one sentence where something went wrong, with its exit code."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from medrestore_monai.files import UsageError
from medrestore_monai.notes import Notes

USAGE, BAD_DATA = 2, 3
RESEARCH = "For research, not a medical device."

console = Console()
errors = Console(stderr=True, highlight=False)


def printable(text: str) -> str:
    """Return a text with what is not UTF-8, as a file name may be, written out."""
    return text.encode(errors="backslashreplace").decode()


def fail(message: str, code: int = BAD_DATA) -> typer.Exit:
    """Print one sentence to the error stream and return the exit to raise."""
    errors.print(f"[red]Error:[/red] {escape(message)}", soft_wrap=True)
    return typer.Exit(code)


@contextmanager
def reported(code: int = BAD_DATA) -> Iterator[None]:
    """Turn what a user can mend into one sentence and an exit code; let our own mistakes through."""
    with warnings.catch_warnings(), Notes(_print_note):
        warnings.filterwarnings("ignore", module=r"(monai|ignite|torch|pydicom)\b")
        warnings.showwarning = lambda message, *_: _print_note(str(message))
        try:
            yield
        except (FileExistsError, UsageError) as error:
            raise fail(_sentence(error), USAGE) from error
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            raise fail(_sentence(error), code) from error


def _print_note(message: str) -> None:
    errors.print(f"[yellow]Note:[/yellow] {escape(message)}", soft_wrap=True)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}."
    if isinstance(error, MemoryError):
        return "there is too little memory for this image."
    return " ".join(str(error).split())
