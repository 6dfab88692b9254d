"""Which values of a configuration a user may set, and to what."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from medrestore_monai.engines.errors import unwrapped

#: What has an option of its own on the command line, or is not for users.
OWN_OPTIONS = {
    "imports": "the bundle's author",
    "bundle_root": "--bundle",
    "dataset_dir": "INPUT",
    "output_dir": "--output",
    "weights": "--weights",
    "device": "--device",
    "precision": "--precision",
    "backend": "--backend",
    "strength": "--strength",
    "tile": "--tile",
    "modality": "--modality",
    "suv": "--suv-factor and what goes with it",
    "hu_offset": "--hu-offset",
    "series_uid": "--series",
    "allow_gaps": "--allow-gaps",
    "overwrite": "--overwrite",
    "progress": "the command itself",
}


def path_text(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what becomes the text of a path in a configuration, letter by letter: of texts, MONAI changes some."""
    return {"_target_": "os.fspath", "path": Path(path)}


def check_options(config: str | os.PathLike[str], device: str = "auto", **overrides: Any) -> None:
    """Refuse options that cannot be used whatever the images are, before one of them is read.

    Args:
        config: as for :class:`~medrestore_monai.restorer.Restorer`.
        device: as for :class:`~medrestore_monai.restorer.Restorer`.
        overrides: as for :class:`~medrestore_monai.restorer.Restorer`.

    Raises:
        ValueError: the configuration has no such option, or a value is out of its range.
        RuntimeError: the device is not available.
    """
    if device != "auto":
        check_device(device)
    # MONAI would run a text that starts with "$" as code, and a UID may come from a file
    if not re.fullmatch(r"[0-9.]*", overrides.get("series_uid", "")):
        raise ValueError(f"a SeriesInstanceUID has digits and dots only, got {overrides['series_uid']!r}.")
    with unwrapped():
        parser = ConfigParser()
        parser.read_config(str(config))
        unknown = sorted(name for name in overrides if re.split("#|::", name)[0] not in parser.config)
        if unknown:
            raise ValueError(f"{Path(config).name} has no option {', '.join(unknown)}.")
        parser.update(overrides)
        parser.get_parsed_content("inferer")


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Turn ``dose=0.1`` into a value by name; what is no JSON value stays a text.

    Raises:
        ValueError: there is no ``=`` in it, or the value is no number, ``true``, ``false`` or plain text.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ValueError(f"a setting is NAME=VALUE, got {text!r}.")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
        check_plain(name, settings[name])
    return settings


def refuse_own_options(settings: Mapping[str, Any]) -> None:
    """Refuse settings that have an option of their own.

    Raises:
        ValueError: one has.
    """
    for name in settings:
        if top_of(name) in OWN_OPTIONS:
            raise ValueError(f"{top_of(name)} is not set by --set but by {OWN_OPTIONS[top_of(name)]}.")


def check_plain(name: str, value: Any) -> None:
    """Refuse a value that is no number, switch or text, or that MONAI would run as code.

    Raises:
        ValueError: it is such a value.
    """
    if not isinstance(value, bool | int | float) and (not isinstance(value, str) or re.search(r"[$@%]", value)):
        raise ValueError(f"the setting {name} must be a number or a plain text, got {value!r}.")


def check_kinds(file: str, parser: ConfigParser, settings: Mapping[str, Any], fractions: bool = True) -> None:
    """Refuse settings that are no plain value of a configuration, or of another kind than it: switch, number, text.

    Args:
        file: its name, for messages.
        parser: has read it.
        settings: of :func:`parse_settings`.
        fractions: allow 1.5 where the configuration has a whole number.

    Raises:
        ValueError: so it is; the message names the values that can be set.
    """
    plain = {name: value for name, value in parser.config.items() if _is_plain(value) and name not in OWN_OPTIONS}
    for name, value in settings.items():
        check_plain(name, value)
        nested = top_of(name) != name
        known = parser.get(name) if nested else plain.get(name)
        # a network has parameters that its configuration does not name
        free = nested and known is None and top_of(name) == "network_def" and "network_def" in parser.config
        if not free and (not _is_plain(known) or "_" in [part[:1] for part in re.split("#|::", name)]):
            raise ValueError(f"{file} has no value {name} to set; it has {', '.join(plain)}.")
        kind = _kind_of(known, fractions)
        if not free and not _fits(value, kind):
            raise ValueError(f"the setting {name} is {kind}, got {value!r}.")


def top_of(name: str) -> str:
    """Return the key at the top of the configuration that a value belongs to."""
    return re.split("#|::", name)[0]


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str) and not str(value).startswith(("$", "@"))


def _kind_of(value: Any, fractions: bool) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "a text"
    return "a number" if fractions or isinstance(value, float) else "a whole number"


def _fits(value: Any, kind: str) -> bool:
    if isinstance(value, bool | str):
        return kind == ("true or false" if isinstance(value, bool) else "a text")
    whole = isinstance(value, int)
    return kind in ("a number", "a whole number") if whole else kind == "a number" and math.isfinite(value)


def check_device(device: str) -> None:
    """Refuse a device that PyTorch does not find.

    Raises:
        ValueError: it is no such name.
        RuntimeError: it is not there.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}.")
    if device != "cpu" and (torch.device(device).index or 0) >= torch.cuda.device_count():
        raise RuntimeError(f"there is no device {device} here: PyTorch finds {torch.cuda.device_count()} CUDA devices.")
