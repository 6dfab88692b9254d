"""What can be set of a bundle: declared in its ``metadata.json``, checked here before anything is loaded.

The block ``medrestore`` of ``metadata.json`` names the ``task``, the ``modalities`` and the ``settings`` of a bundle:

    "medrestore": {
        "task": "denoising",
        "modalities": ["CT"],
        "settings": {
            "mean_hu": {"kind": "choice", "choices": ["check", "correct", "off"], "help": "..."},
            "dose": {"kind": "float", "range": "(0, 1]", "when": "evaluation", "help": "..."}
        }
    }

The default of a setting is the value in the configuration. What all bundles share is declared in :data:`SHARED`.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medrestore_monai.bundles.kinds import MODALITIES, Setting, as_plain, nearest
from medrestore_monai.bundles.shared_settings import BACKENDS, PRECISIONS, SHARED

__all__ = [
    "BACKENDS",
    "INTERNAL",
    "PRECISIONS",
    "SHARED",
    "Setting",
    "check_values",
    "config_values",
    "declared_modalities",
    "declared_settings",
    "declared_task",
    "parse_settings",
    "path_text",
    "recorded_settings",
    "require_device",
    "settings_in",
    "top_of",
]

BLOCK = "medrestore"
TASKS = ("denoising", "deblurring", "super-resolution", "synthesis")
RUN = ("imports", "initialize", "run", "finalize")  # what MONAI runs of a configuration
#: Top-level values of configurations that are arguments of a run, not settings.
INTERNAL = ("bundle_root", "dataset_dir", "output_dir", "overwrite", "progress")

_RENAMED = {"suv": "suv_factor, patient_weight, injected_dose, half_life and injection_time"}
# what is said of an image, which must be of that modality
_OF_IMAGES = {one.name: one.modality for one in SHARED if one.modality}
# what a bundle may say of a setting of its own, and the names that it may not give one
_DECLARED = {"kind": str, "help": str, "when": str, "choices": list, "range": str, "modality": str, "served": bool}
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED = {*INTERNAL, *RUN, *(one.name for one in SHARED)}
_OF_NETWORK = re.compile(r"network_def((#|::)[A-Za-z0-9]\w*)+")


def _block(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    block = metadata.get(BLOCK)
    if not isinstance(block, Mapping) or not {"task", "modalities", "settings"} <= set(block):
        raise ValueError(
            f"metadata.json of this bundle has no block {BLOCK!r} with task, modalities and settings: "
            "copy it from the bundle that this one was made from."
        )
    for name in ("modalities", "evaluated"):
        found = block.get(name, [])
        if not (isinstance(found, list) and all(isinstance(one, str) for one in found)):
            raise ValueError(f"{name} in metadata.json must be a list of texts, got {str(found)[:100]}.")
    settings = block["settings"]
    if not (isinstance(settings, Mapping) and all(isinstance(one, Mapping) for one in settings.values())):
        raise ValueError("settings in metadata.json must be mappings by name.")
    return block


def declared_modalities(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the modalities that a bundle restores, the one it was trained for first.

    Args:
        metadata: the content of ``metadata.json``.

    Raises:
        ValueError: there is no block ``medrestore``, or it names other modalities than :data:`MODALITIES`.
    """
    found = tuple(_block(metadata)["modalities"])
    if not found or set(found) - set(MODALITIES):
        raise ValueError(f"modalities in metadata.json must be of {', '.join(MODALITIES)}, got {found}.")
    return found


def declared_task(metadata: Mapping[str, Any], modality: str) -> str:
    """Return what a bundle does with images of a modality, one of :data:`TASKS`.

    Args:
        metadata: the content of ``metadata.json``; its task is one text, or one for each modality.
        modality: one of the bundle's.

    Raises:
        ValueError: there is no such block, or it declares no known task for the modality.
    """
    task = _block(metadata)["task"]
    found = task.get(modality) if isinstance(task, Mapping) else task
    if found not in TASKS:
        raise ValueError(f"task of {modality} in metadata.json must be one of {', '.join(TASKS)}, got {found!r}.")
    return str(found)


def declared_settings(metadata: Mapping[str, Any]) -> dict[str, Setting]:
    """Return what can be set of a bundle, by name: the shared settings of its modalities, then its own.

    Args:
        metadata: the content of ``metadata.json``.

    Raises:
        ValueError: there is no block ``medrestore``, or a declaration in it is invalid.
    """
    modalities = declared_modalities(metadata)
    found = {one.name: one for one in SHARED if one.modality in ("", *modalities)}
    found["modality"] = replace(found["modality"], choices=modalities)
    for name, entry in _block(metadata)["settings"].items():
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise ValueError(f"the setting {name} in metadata.json must have another name.")
        if set(entry) - set(_DECLARED) or not {"kind", "help"} <= set(entry):
            raise ValueError(
                f"the setting {name} in metadata.json has kind and help, and may have when, choices, range, "
                f"modality and served, got {', '.join(entry)}."
            )
        for key, value in entry.items():
            given = value if isinstance(value, list) else []
            if not isinstance(value, _DECLARED[key]) or not all(isinstance(one, str | int | float) for one in given):
                raise ValueError(f"{key} of the setting {name} in metadata.json cannot be {str(value)[:100]}.")
        found[name] = Setting(name, **{**entry, "choices": tuple(entry.get("choices", ()))})
    return found


def recorded_settings(settings: Mapping[str, Setting]) -> dict[str, str]:
    """Return what a derived image records: by name, the key in the configuration whose value it is.

    The name of a setting has its modality before it if the bundle restores several. A header has its own modality.
    """
    several = len(settings["modality"].choices) > 1
    found = {}
    for setting in settings.values():
        if setting.recorded and setting.when != "evaluation" and setting.name != "modality":
            key = top_of(setting.key)
            found[f"{setting.modality} {key}" if several and setting.modality else key] = key
    return found


def settings_in(settings: Mapping[str, Setting], configuration: Mapping[str, Any]) -> dict[str, Setting]:
    """Return the settings that a configuration has a value of.

    Args:
        settings: of :func:`declared_settings`.
        configuration: the content of ``inference.json`` or ``evaluate.json``.
    """
    return {name: one for name, one in settings.items() if top_of(one.key) in configuration or name == "modality"}


def check_values(settings: Mapping[str, Setting], values: Mapping[str, Any], of_network: bool = True) -> dict[str, Any]:
    """Return values by name, with types and spelling put right; those that are ``None`` are left out.

    Args:
        settings: that may be set.
        values: of these, and plain values in ``network_def``, such as ``network_def::dim``.
        of_network: allow the latter.

    Raises:
        ValueError: with one sentence for each value that cannot be, or name that is unknown.
    """
    found, wrong = {}, []
    for name, value in values.items():
        try:
            if value is not None:
                found[name] = _checked(settings, name, value, of_network)
        except ValueError as error:
            wrong.append(str(error))
    modality = found.get("modality")
    for name, of in _OF_IMAGES.items():
        if name in found and modality not in (None, of):
            wrong.append(f"`{name}` is for {of}, not for {modality}.")
    if wrong:
        raise ValueError(" ".join(wrong))
    return found


def _checked(settings: Mapping[str, Setting], name: str, value: Any, of_network: bool) -> Any:
    if name in settings:
        return settings[name].check(value)
    if name in _RENAMED and set(settings) & set(re.findall(r"\w+", _RENAMED[name])):
        raise ValueError(f"{name} is set by its parts: {_RENAMED[name]}.")
    if of_network and _OF_NETWORK.fullmatch(name):
        return as_plain(name, value)
    if name in _OF_IMAGES and "modality" in settings:
        raise ValueError(f"`{name}` is for {_OF_IMAGES[name]}, not for {', '.join(settings['modality'].choices)}.")
    raise ValueError(f"there is no setting {name}.{nearest(name, settings)} There are {', '.join(settings)}.")


def config_values(settings: Mapping[str, Setting], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration is updated with, by its own keys.

    Args:
        settings: that may be set.
        values: of :func:`check_values`.
    """
    found = {}
    for name, value in values.items():
        if name == "device":
            if value != "auto":
                found[name] = f"$torch.device({value!r})"
        # the configuration of a bundle of one modality knows it, and pictures have none
        elif name != "modality" or (value != "RGB" and len(settings[name].choices) > 1):
            found[settings[name].key if name in settings else name] = value
    return found


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Turn ``dose=0.1`` into a value by name: a number, ``True``, ``False``, or a text.

    Raises:
        ValueError: a text has no ``=``.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ValueError(f"a setting is NAME=VALUE, got {text!r}.")
        try:
            found = json.loads(value)
        except ValueError:
            found = None
        settings[name] = found if isinstance(found, bool | int | float) else value
    return settings


def top_of(key: str) -> str:
    """Return the key at the top of a configuration that a value belongs to."""
    return re.split("#|::", key)[0]


def path_text(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what becomes the text of a path in a configuration, letter by letter: of texts, MONAI changes some."""
    return {"_target_": "os.fspath", "path": Path(path)}


def require_device(device: str) -> None:
    """Refuse a GPU that PyTorch does not find.

    Raises:
        RuntimeError: it is not there.
    """
    if device == "mps":
        import torch

        if not torch.backends.mps.is_available():
            built = (
                "finds no Apple GPU, or macOS is too old" if torch.backends.mps.is_built() else "is built without it"
            )
            raise RuntimeError(f"there is no device mps here: this PyTorch {built}.")
    if device.startswith("cuda"):
        import torch

        count = torch.cuda.device_count()
        if (torch.device(device).index or 0) >= count:
            raise RuntimeError(f"there is no device {device} here: PyTorch finds {count} CUDA devices.")
