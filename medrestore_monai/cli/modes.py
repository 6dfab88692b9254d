"""How a command prints: ``--json``, ``--record``, ``--quiet`` and ``--verbose``, and what holds while it runs."""

import functools
import inspect
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from medrestore_monai import __version__
from medrestore_monai.files import atomic_file
from medrestore_monai.texts import one_line, printable

INTERNAL, USAGE, BAD_DATA = 1, 2, 3  # exit codes; the first is for mistakes of ours
_KINDS = {INTERNAL: "internal", USAGE: "usage", BAD_DATA: "data"}

ERROR = "medrestore/error/1"

# no words between colons become pictures: keys of configurations and names of files have colons
console = Console(emoji=False)
errors = Console(stderr=True, highlight=False, emoji=False)

_OPTIONS: dict[str, Any] = {
    "json": Annotated[bool, typer.Option("--json", help="Print one JSON document instead; notes stay on stderr.")],
    "record": Annotated[
        Path | None, typer.Option("--record", help="Also write that document to a file.", show_default=False)
    ],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and notes only, no progress.")],
    "verbose": Annotated[
        bool, typer.Option("--verbose", "-v", help="Print on stderr what is used, and where it fails.")
    ],
}


@dataclass
class Mode:
    """What a command was asked to print, and whether it has.

    Args:
        command: its name, such as ``bundles show``.
        json: print a document.
        record: a file for the document.
        quiet: show no progress and no summary.
        verbose: say more on the error stream.
        stdout: where the document goes.
    """

    command: str = ""
    json: bool = False
    record: Path | None = None
    quiet: bool = False
    verbose: bool = False
    stdout: TextIO | None = None
    done: bool = False

    @property
    def is_recorded(self) -> bool:
        """Whether a document is wanted."""
        return self.json or self.record is not None

    def write(self, schema: str, content: Mapping[str, Any]) -> None:
        """Print the document of this command, and write its record; what comes after the first one is dropped."""
        if self.done:
            return
        self.done = True
        text = as_json({"schema": schema, "medrestore": __version__, **content})
        if self.json:
            stream = self.stdout or sys.stdout
            stream.write(text)
            stream.flush()
        if self.record is not None:
            try:
                with atomic_file(self.record) as file:
                    file.write(text.encode())
            except OSError as error:
                raise fail(f"--record {self.record} cannot be written: {error.strerror}.", BAD_DATA) from error

    def write_error(self, message: str, code: int) -> None:
        """Print the document of a command that failed."""
        self.write(ERROR, error_content(self.command, message, code))


_mode: ContextVar[Mode] = ContextVar("mode", default=Mode())  # noqa: B039 - outside of a command nothing is written


def mode() -> Mode:
    """Return what the running command was asked to print."""
    return _mode.get()


def write_document(schema: str, content: Mapping[str, Any]) -> None:
    """Print the document of the running command if it was asked to, see :meth:`Mode.write`."""
    mode().write(schema, content)


def detail(text: str) -> None:
    """Say something on the error stream, with ``--verbose`` only."""
    if mode().verbose:
        errors.print(f"[dim]Detail:[/dim] {escape(one_line(text))}", soft_wrap=True)


def as_json(content: Mapping[str, Any]) -> str:
    """Return a document as text: ASCII, so that no terminal and no encoding changes it."""
    return json.dumps(content, indent=1, allow_nan=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    """Return a number of NumPy as one of Python."""
    return value.item() if hasattr(value, "item") else str(value)


def print_note(message: str) -> None:
    """Print a note or warning in one line of the error stream."""
    errors.print(f"[yellow]Note:[/yellow] {escape(one_line(message))}", soft_wrap=True)


def fail(message: str, code: int) -> typer.Exit:
    """Print one sentence to the error stream, the document of the error if asked to, and return the exit to raise."""
    errors.print(f"[red]Error:[/red] {escape(printable(message))}", soft_wrap=True)
    mode().write_error(printable(message), code)
    return typer.Exit(code)


def error_content(command: str, message: str, code: int) -> dict[str, Any]:
    """Return what the document of an error has."""
    return {"command": command, "error": _KINDS[code], "message": message, "exit_code": code}


def reporting(*offered: str, name: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command with options that say how it prints.

    Args:
        offered: of ``json``, ``record`` and ``quiet``; every command has ``verbose``.
        name: of the command, where its function has another one.
    """
    options = [option for option in _OPTIONS if option in (*offered, "verbose")]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(**arguments: Any) -> None:
            chosen = {option: arguments.pop(option) for option in options}
            with _running(Mode(name or function.__name__, **chosen), arguments):
                function(**arguments)

        known = inspect.signature(function)
        added = [_parameter(option) for option in options]
        run.__signature__ = known.replace(parameters=[*known.parameters.values(), *added])  # type: ignore[attr-defined]
        run.__annotations__ = {**function.__annotations__, **{one.name: one.annotation for one in added}}
        return run

    return decorate


def _parameter(option: str) -> inspect.Parameter:
    default = None if option == "record" else False
    return inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=_OPTIONS[option])


@contextmanager
def _running(asked: Mode, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Let a command print as it was asked to."""
    began, muted = time.monotonic(), console.quiet
    record, asked.record, asked.stdout = asked.record, None, sys.stdout
    token = _mode.set(asked)
    with ExitStack() as stack:
        stack.callback(_mode.reset, token)
        stack.callback(setattr, console, "quiet", muted)
        console.quiet = asked.quiet or asked.json
        if asked.json:
            stack.enter_context(redirect_stdout(sys.stderr))  # what a library prints
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = lambda message, *_: print_note(str(message))
        if asked.quiet and asked.verbose:
            raise fail("give --quiet or --verbose, not both.", USAGE)
        if record is not None:
            _check_record(record, arguments)
            asked.record = record
        try:
            yield
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            kind = type(error).__name__
            asked.write_error(f"an unexpected {kind}: a mistake in medrestore, please report it.", INTERNAL)
            raise
        finally:
            detail(f"{asked.command} took {time.monotonic() - began:.1f} s.")


def _check_record(record: Path, arguments: Mapping[str, Any]) -> None:
    """Refuse a place for the record that holds something else, or that a command may not write to."""
    source, output = (Path(arguments.get(name) or arguments["data"]).resolve() for name in ("source", "output"))
    place = record.resolve()
    if record.exists() and not (arguments["overwrite"] and _is_document(record)):
        raise fail(f"{record} exists; name another file for --record, or replace a record with --overwrite.", USAGE)
    if place == output or source in (place, *place.parents):
        raise fail(f"--record {record} may not be the output, and may not lie in {source.name}.", USAGE)
    if not place.parent.is_dir():
        raise fail(f"--record {record} is no file in an existing folder.", USAGE)


def _is_document(record: Path) -> bool:
    start = b'{\n "schema": "medrestore/'
    with suppress(OSError), record.open("rb") as file:
        return file.read(len(start)) == start
    return False


class JsonGroup(TyperGroup):
    """Commands whose mistakes in the command line are documents, too, where ``--json`` is among the arguments."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and note whether a document is asked for."""
        ctx.meta["medrestore"] = "--json" in args
        with _usage_errors(ctx):
            return list(super().parse_args(ctx, args))

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        with _usage_errors(ctx):
            return super().invoke(ctx)


@contextmanager
def _usage_errors(ctx: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        message = getattr(error, "format_message", None)  # of Click's errors, which Typer may bring along
        if message is not None and ctx.meta["medrestore"]:
            command = getattr(getattr(error, "ctx", None), "command_path", "")
            content = error_content(command.partition(" ")[2], message(), getattr(error, "exit_code", 2))
            Mode(json=True).write(ERROR, content)
        raise
