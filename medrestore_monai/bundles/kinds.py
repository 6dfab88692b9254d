"""One setting of a bundle: its kind, what it takes, and what a text from a command line or a form becomes."""

import difflib
import math
import numbers
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

__all__ = ["MODALITIES", "Setting", "as_plain", "nearest"]

Kind = Literal["bool", "int", "float", "choice", "text", "path"]
When = Literal["opening", "call", "evaluation"]

MODALITIES = ("CT", "MR", "PT", "RGB")

_SYNONYMS = {"pet": "PT", "mri": "MR", "gray": "RGB"}
_SWITCHES = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_INTERVAL = re.compile(r"([\[(])(-inf|-?[\d.]+), (inf|-?[\d.]+)([\])])")
_RUN_BY_MONAI = re.compile(r"[$@%]")  # such a text would be code, a reference or a file


@dataclass(frozen=True)
class Setting:
    """One value of a configuration that a user may set.

    Args:
        name: as users write it.
        kind: ``bool``, ``int``, ``float``, ``choice``, ``text`` or ``path``.
        help: one line for users.
        when: settings of the ``opening`` are fixed while a bundle is open, those of a ``call`` may change from image to
            image, those of an ``evaluation`` are in ``evaluate.json`` alone.
        choices: all values of a ``choice``; of another kind, values allowed beside it, such as ``auto``.
        range: of a number, as an interval: ``(0, 1]``, ``[1, inf)``.
        pattern: a regular expression for a text.
        form: the same in words.
        modality: the only one that it is for; empty for all.
        key: its place in the configuration, such as ``suv::factor``; by default its name.
        recorded: it changes the result, so that derived images and manifests name it.
        served: clients of a server may set it; by default, if it is of a call.

    Raises:
        ValueError: the declaration is invalid.
    """

    name: str
    kind: Kind
    help: str
    when: When = "call"
    choices: tuple[Any, ...] = ()
    range: str = ""
    pattern: str = ""
    form: str = ""
    modality: str = ""
    key: str = ""
    recorded: bool = True
    served: bool | None = None

    def __post_init__(self) -> None:
        for what, value, known in (
            ("kind", self.kind, get_args(Kind)),
            ("when", self.when, get_args(When)),
            ("modality", self.modality, ("", *MODALITIES)),
        ):
            if value not in known:
                raise ValueError(f"{what} of the setting {self.name} must be one of {', '.join(known)}, got {value!r}.")
        if (self.kind == "choice") > bool(self.choices):
            raise ValueError(f"the setting {self.name} is a choice and has no choices.")
        if self.range and not _INTERVAL.fullmatch(self.range):
            raise ValueError(f"range of the setting {self.name} must be an interval like [0, 1], got {self.range!r}.")
        object.__setattr__(self, "key", self.key or self.name)
        object.__setattr__(self, "served", self.when == "call" if self.served is None else self.served)

    @property
    def expected(self) -> str:
        """What it takes, in words."""
        if self.kind == "choice":
            return _one_of(self.choices)
        words = {"bool": "true or false", "int": "a whole number", "float": "a number", "path": "a path"}
        kind = self.form or words.get(self.kind, "a plain text")
        return _one_of([*self.choices, kind + _in_words(self.range)])

    def check(self, value: Any) -> Any:
        """Return a value with its type and spelling put right.

        Args:
            value: may be a text, as from a command line or a form.

        Raises:
            ValueError: it is invalid; the message names the setting and what it takes.
        """
        for choice in self.choices:
            if _is_choice(value, choice):
                return choice
        found = None if self.kind == "choice" else _PARSERS[self.kind](value)
        if found is None or not (_lies_in(found, self.range) and _has_form(found, self.pattern)):
            hint = nearest(str(value), map(str, self.choices)) if self.kind == "choice" else ""
            raise ValueError(f"{self.name} must be {self.expected}, got {value!r}.{hint}")
        return found


def _in_words(interval: str) -> str:
    match = _INTERVAL.fullmatch(interval)
    if match is None or match[3] != "inf":
        return f" in {interval}" if interval else ""
    return f" of at least {match[2]}" if match[1] == "[" else f" above {match[2]}"


def _one_of(words: Sequence[Any]) -> str:
    *others, last = map(str, words)
    return f"{', '.join(others)} or {last}" if others else last


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a question that ends a message, or nothing where no known name is near."""
    spelled = {one.lower(): one for one in known}
    found = difflib.get_close_matches(name.lower(), spelled, n=1)
    return f" Did you mean {spelled[found[0]]}?" if found else ""


def _is_choice(value: Any, choice: Any) -> bool:
    if not isinstance(choice, str):
        return _number(value) == choice
    if not isinstance(value, str):
        return False
    word = value.strip().lower()
    return _SYNONYMS.get(word, word).lower() == choice.lower()


def _switch(value: Any) -> bool | None:
    return value if isinstance(value, bool) else _SWITCHES.get(str(value).strip().lower())


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number.is_integer() else None


def _text(value: Any) -> str | None:
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
    return None if text is None or _RUN_BY_MONAI.search(text) else text


def _path(value: Any) -> Path | None:
    # a path, not a text: MONAI would run a text that starts with "$" as code
    return Path(value) if isinstance(value, str | os.PathLike) else None


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "bool": _switch,
    "int": _whole,
    "float": _number,
    "text": _text,
    "path": _path,
}


def _lies_in(value: Any, interval: str) -> bool:
    match = _INTERVAL.fullmatch(interval)
    if match is None:
        return True
    opening, lower, upper, closing = match.groups()
    above = value >= float(lower) if opening == "[" else value > float(lower)
    below = value <= float(upper) if closing == "]" else value < float(upper)
    return bool(above and below)


def _has_form(value: Any, pattern: str) -> bool:
    return not pattern or re.fullmatch(pattern, value) is not None


def as_plain(name: str, value: Any) -> bool | int | float | str:
    """Return a value that MONAI takes as it stands: a number, a switch or a plain text.

    Raises:
        ValueError: it is not one of these.
    """
    number = isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
    if not number and (not isinstance(value, str) or _RUN_BY_MONAI.search(value)):
        raise ValueError(f"{name} must be a number, true, false or a plain text, got {value!r}.")
    return value
