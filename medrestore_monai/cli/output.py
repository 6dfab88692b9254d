"""What the commands print: results, notes, and one sentence where something went wrong, with its exit code."""

import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import typer

from medrestore_monai.cli.modes import BAD_DATA, USAGE, detail, fail, print_note
from medrestore_monai.files import DataError, UsageError
from medrestore_monai.notes import Notes
from medrestore_monai.stopping import stop_if_asked
from medrestore_monai.texts import one_line, sentence_of

RESEARCH = "For research, not a medical device."

#: The option that sets a field of the library.
FLAGS = {
    "allow_gaps": "--allow-gaps",
    "backend": "--backend",
    "bundle_root": "--bundle",
    "device": "--device",
    "half_life": "--half-life",
    "high_bits": "--high-bits",
    "hu_offset": "--hu-offset",
    "injected_dose": "--injected-dose",
    "injection_time": "--injection-time",
    "limit_change": "--limit-change",
    "modality": "--modality",
    "output_dir": "--output",
    "overwrite": "--overwrite",
    "part": "--part",
    "patient_weight": "--patient-weight",
    "precision": "--precision",
    "report": "--report",
    "seed": "--seed",
    "series_uid": "--series",
    "workers": "--workers",
    "slice_axis": "--slice-axis",
    "split_series": "--split-series",
    "stack": "--stack",
    "strength": "--strength",
    "suv_factor": "--suv-factor",
    "tile": "--tile",
    "weights": "--weights",
    "weights_url": "--weights-url",
}
_OF_EVALUATE = ("allow_gaps", "device", "hu_offset", "modality", "output_dir", "overwrite", "part", "seed")
EVALUATE_FLAGS = {name: FLAGS[name] for name in _OF_EVALUATE}
AUDIT_FLAGS = {
    name: FLAGS[name]
    for name in ("hu_offset", "modality", "overwrite", "series_uid", "slice_axis", "stack", "suv_factor")
}
ADAPT_FLAGS = {name: FLAGS[name] for name in ("allow_gaps", "device", "hu_offset", "modality", "overwrite", "seed")}
RESTORE_FLAGS = {name: flag for name, flag in FLAGS.items() if name not in ("part", "seed", "weights_url")}


@contextmanager
def reported(code: int = BAD_DATA, flags: Mapping[str, str] = FLAGS) -> Iterator[list[str]]:
    """Turn what a user can mend into one sentence and an exit code; let our own mistakes through.

    Args:
        code: of the exit.
        flags: the options of the command, by the fields that messages name.

    Yields:
        The notes, as they were printed.
    """
    printed: list[str] = []

    def take(message: str) -> None:
        printed.append(one_line(with_flags(message, flags)))
        print_note(printed[-1])

    with warnings.catch_warnings(), Notes(take):
        warnings.filterwarnings("ignore", module=r"(monai|ignite|torch|pydicom)\b")
        warnings.showwarning = lambda message, *_: take(str(message))
        try:
            stop_if_asked()
            yield printed
            stop_if_asked()
        except typer.Exit:
            raise
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            detail(_place(error))
            sentence = sentence_of(error)
            sentence = sentence if isinstance(error, DataError) else with_flags(sentence, flags)
            raise fail(sentence, _exit_code(error, code)) from error


def _exit_code(error: Exception, code: int) -> int:
    from medrestore_monai.bundles import WeightsError

    if isinstance(error, DataError | WeightsError):  # a file, whenever it is read
        return BAD_DATA
    return USAGE if isinstance(error, FileExistsError | UsageError) else code


def _place(error: BaseException | None) -> str:
    """Say where an error and its causes were raised, without their texts, which may quote a header."""
    found = []
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        where = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[-4:]]
        found.append(f"{type(error).__name__} at {' > '.join(where)}")
        error = error.__cause__
    return "; from ".join(found)


def with_flags(message: str, flags: Mapping[str, str] = FLAGS) -> str:
    """Put options in place of the fields that a message has in backquotes; what has none is a ``--set``."""

    def flag(field: re.Match[str]) -> str:
        name, value = field[1], field[2]
        if name in flags:
            return f"{flags[name]} {value or ''}".strip()
        return f"--set {name}={value or 'VALUE'}" if value or name in FLAGS else field[0]

    return re.sub(r"`([a-z]\w*)(?:=([^`\s]+))?`", flag, message)
