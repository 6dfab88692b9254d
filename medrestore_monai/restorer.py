"""Run a bundle's ``inference.json`` on one image or a thousand, and tell what came of it."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from medrestore_monai.bundles import read_config
from medrestore_monai.data import abandon_slabs
from medrestore_monai.engines.errors import root_cause, unwrapped

# what has an option of its own on the command line, or is not for users
_OWN_OPTIONS = {
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


@dataclass(frozen=True)
class Restored:
    """One image that was restored.

    Args:
        source: the image file, or the folder, file or archive of a DICOM series.
        output: the restored file, or the folder of the derived series.
    """

    source: Path
    output: Path


def restore(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    config: str | os.PathLike[str],
    *,
    device: str = "auto",
    overwrite: bool = False,
    **overrides: Any,
) -> list[Restored]:
    """Restore an image, a DICOM series or a folder of them with a bundle.

    Of many images, those before a bad one are finished and stay.

    Args:
        source: a file, a DICOM series (file, folder, zip) or a folder of any of them; it is never changed.
        output: a file or folder; see :func:`medrestore_monai.data.plan_outputs`.
        config: the bundle's ``inference.json``; it is run as it is, with the weights of the bundle it lies in.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        overwrite: replace outputs that exist.
        overrides: values of the configuration, such as ``strength=0.5`` or, deeper in it, ``network_def::dim``;
            ``weights`` and ``bundle_root`` are paths, whatever letters they have.

    Returns:
        What was restored, in order.

    Raises:
        ValueError: the input, an option or the weights cannot be used; nothing was written for that image.
        FileExistsError: an output exists.
        OSError: an output cannot be written.
        RuntimeError: the device is not available, or memory does not suffice.
    """
    if "weights" in overrides:
        overrides["weights"] = Path(overrides["weights"])
    check_options(config, device, **overrides)
    overrides["bundle_root"] = path_text(overrides.get("bundle_root", Path(config).resolve().parents[1]))
    if device != "auto":
        overrides["device"] = f"$torch.device({device!r})"
    overrides |= _told_of_deeper_values(config, overrides)
    with unwrapped():
        workflow = ConfigWorkflow(
            config_file=str(config),
            meta_file=str(Path(config).parent / "metadata.json"),
            logging_file=False,
            workflow_type="inference",
            # paths, not texts: MONAI would run a text that starts with "$" as code, and put "::" for "#"
            dataset_dir=Path(source),
            output_dir=Path(output),
            overwrite=overwrite,
            **overrides,
        )
        try:
            workflow.initialize()
            planned = workflow.parser.get_parsed_content("datalist")
            workflow.run()
        finally:
            abandon_slabs()
    sources = {item["output"]: item["image"] for item in planned}  # slabs of one image have one output
    return [Restored(Path(image), Path(result)) for result, image in sources.items()]


def path_text(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what becomes the text of a path in a configuration, letter by letter: of texts, MONAI changes some."""
    return {"_target_": "os.fspath", "path": Path(path)}


def check_options(config: str | os.PathLike[str], device: str = "auto", **overrides: Any) -> None:
    """Refuse options that cannot be used whatever the images are, before one of them is read.

    Args:
        config: as for :func:`restore`.
        device: as for :func:`restore`.
        overrides: as for :func:`restore`.

    Raises:
        ValueError: the configuration has no such option, or a value is out of its range.
        RuntimeError: the device is not available.
    """
    if device != "auto":
        _check_device(device)
    # MONAI would run a text that starts with "$" as code, and a UID may come from a file
    if not re.fullmatch(r"[0-9.]*", overrides.get("series_uid", "")):
        raise ValueError(f"a SeriesInstanceUID has digits and dots only, got {overrides['series_uid']!r}.")
    with unwrapped():
        parser = read_config(config)
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
        _check_plain(name, settings[name])
    return settings


def _check_plain(name: str, value: Any) -> None:
    if not isinstance(value, bool | int | float) and (not isinstance(value, str) or re.search(r"[$@%]", value)):
        # MONAI would run such a text as code
        raise ValueError(f"the setting {name} must be a number or a plain text, got {value!r}.")


def check_settings(config: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
    """Refuse settings that a configuration does not have, or that are of another kind there.

    Args:
        config: a bundle's ``inference.json``.
        settings: of :func:`parse_settings`.

    Raises:
        ValueError: one is unknown, belongs to another option, is of another kind than what is there, or has a value
            that the network or a transform of the unscaling refuses.
    """
    parser = read_config(config)
    for name in settings:
        top = _top(name)
        if top in _OWN_OPTIONS:
            raise ValueError(f"{top} is not set by --set but by {_OWN_OPTIONS[top]}.")
    check_kinds(Path(config).name, parser, settings, fractions=False)
    for name in settings:
        if _top(name) not in (name, "network_def"):
            raise ValueError(f"--set changes values at the top and in network_def, not in {_top(name)}.")
    parser.update(dict(settings))
    transforms = parser.config.get("unscaling", {}).get("transforms", ())
    with unwrapped():
        for index in range(len(transforms)):
            parser.get_parsed_content(f"unscaling::transforms::{index}")
    if any(_top(name) == "network_def" for name in settings):
        _check_network(parser)


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
    plain = {name: value for name, value in parser.config.items() if _is_plain(value) and name not in _OWN_OPTIONS}
    for name, value in settings.items():
        _check_plain(name, value)
        nested = _top(name) != name
        known = parser.get(name) if nested else plain.get(name)
        # a network has parameters that its configuration does not name
        free = nested and known is None and _top(name) == "network_def" and "network_def" in parser.config
        if not free and (not _is_plain(known) or "_" in [part[:1] for part in re.split("#|::", name)]):
            raise ValueError(f"{file} has no value {name} to set; it has {', '.join(plain)}.")
        kind = _kind_of(known, fractions)
        if not free and not _fits(value, kind):
            raise ValueError(f"the setting {name} is {kind}, got {value!r}.")


def _told_of_deeper_values(config: str | os.PathLike[str], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What makes derived images tell the values deeper in the configuration that are not those of the bundle."""
    told = {re.sub("#|::", ".", name): value for name, value in overrides.items() if _top(name) != name}
    parameters = json.loads(Path(config).read_text(encoding="utf-8")).get("derivation", {}).get("parameters", {})
    return {"derivation::parameters": {**parameters, **told}} if told and parameters else {}


def _top(name: str) -> str:
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


def _check_network(parser: ConfigParser) -> None:
    """Build the network of a configuration, to see whether its parameters can be.

    Raises:
        ValueError: they cannot.
    """
    try:
        with unwrapped():
            parser.get_parsed_content("network_def")
    except Exception as error:  # whatever a network raises for what it does not know
        reason = " ".join(str(root_cause(error)).split())[:200]
        raise ValueError(f"there is no network with these settings: {reason}") from error


def _check_device(device: str) -> None:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}.")
    if device != "cpu" and (torch.device(device).index or 0) >= torch.cuda.device_count():
        raise RuntimeError(f"there is no device {device} here: PyTorch finds {torch.cuda.device_count()} CUDA devices.")
