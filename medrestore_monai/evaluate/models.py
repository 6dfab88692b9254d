"""A bundle as its ``evaluate.json`` describes it, ready to restore one image after the other."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from medrestore_monai.bundles import Bundle, find_bundle, verify_weights
from medrestore_monai.intensity import ToUnitRanged
from medrestore_monai.layouts import Item
from medrestore_monai.restore import unwrapped

_TASKS = {
    "denois": "denoising",
    "deblur": "deblurring",
    "super": "super-resolution",
    "synthesis": "synthesis",
    "low_count": "synthesis",
    "low-count": "synthesis",
}


@dataclass(frozen=True)
class Model:
    """One bundle with its weights.

    Args:
        bundle: the bundle.
        parser: its ``evaluate.json``, with the data, device and settings of this evaluation.
        weights_sha256: of the weights used.
        degrading: from an item of its data list to ``image`` and ``label`` in physical units.
        scaling: from these to what the network sees.
        network: loaded and on its device.
        inferer: runs it.
        postprocessing: brings ``pred`` back to physical units.
    """

    bundle: Bundle
    parser: ConfigParser
    weights_sha256: str
    degrading: Compose
    scaling: Compose
    network: Any
    inferer: Any
    postprocessing: Any

    @property
    def settings(self) -> dict[str, Any]:
        """Numbers at the top of ``evaluate.json``, such as dose and seed."""
        config = self.parser.get()
        return {name: value for name, value in config.items() if isinstance(value, bool | int | float)}

    def items(self) -> list[Item]:
        """List the images that the bundle's own data list finds.

        Raises:
            ValueError: see :mod:`medrestore_monai.layouts`.
        """
        with unwrapped():
            return list(self.parser.get_parsed_content("datalist"))

    def restore(self, item: Mapping[Any, Any]) -> torch.Tensor:
        """Restore ``item["image"]``, given in physical units with shape ``(C, X, Y[, Z])``; the label is not used."""
        with unwrapped(), torch.no_grad():
            scaled = self.scaling(dict(item))
            pred = self.inferer(scaled["image"][None], self.network)[0]
            restored: torch.Tensor = self.postprocessing({**scaled, "pred": pred})["pred"]
        return restored.as_subclass(torch.Tensor)


def open_model(
    name: str | Path, data: Path, device: str, settings: Mapping[str, Any], wishes: Mapping[str, Any]
) -> Model:
    """Read a bundle's ``evaluate.json`` and load its weights.

    Args:
        name: name or folder of the bundle.
        data: the folder for its data list.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        settings: values to change in ``evaluate.json``.
        wishes: the same, but left out where there is no such value.

    Raises:
        ValueError: there is no such bundle, setting or ``ToUnitRanged``, or the weights do not fit.
    """
    found = find_bundle(name)
    parser = _read(found, settings)
    config = parser.get()
    wanted = {key: value for key, value in {**wishes, **settings}.items() if key in config or key in settings}
    # paths, not texts: MONAI would run a text that starts with "$" as code
    parser.update({**wanted, "dataset_dir": Path(data), "bundle_root": str(found.root)})
    if device != "auto":
        parser.update({"device": f"$torch.device({device!r})"})
    with unwrapped():
        steps = list(parser.get_parsed_content("preprocessing").transforms)
        at = [index for index, step in enumerate(steps) if isinstance(step, ToUnitRanged)]
        if len(at) != 1:
            raise ValueError(f"evaluate.json of {found.name} must have one ToUnitRanged in its preprocessing.")
        return Model(
            bundle=found,
            parser=parser,
            weights_sha256=verify_weights(parser.get_parsed_content("weights"), found.root),
            degrading=Compose(steps[: at[0]]),
            scaling=Compose(steps[at[0] :]),
            network=parser.get_parsed_content("network"),
            inferer=parser.get_parsed_content("inferer"),
            postprocessing=parser.get_parsed_content("postprocessing"),
        )


def check_settings(name: str | Path, settings: Mapping[str, Any]) -> None:
    """Refuse settings before anything is loaded.

    Raises:
        ValueError: there is no such bundle, it cannot be evaluated, or it has no such setting.
    """
    _read(find_bundle(name), settings)


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Turn ``dose=0.1`` into a value by name; what is no JSON value stays a text.

    Raises:
        ValueError: there is no ``=`` in it.
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
    return settings


def _read(bundle: Bundle, settings: Mapping[str, Any]) -> ConfigParser:
    path = bundle.config("evaluate")
    if not path.is_file():
        raise ValueError(f"the bundle {bundle.name} has no evaluate.json.")
    parser = ConfigParser()
    parser.read_config(str(path))
    for key, value in settings.items():
        if re.split("#|::", key)[0] not in parser.config:
            raise ValueError(f"evaluate.json of {bundle.name} has no setting {key!r}.")
        if not isinstance(value, bool | int | float) and (not isinstance(value, str) or re.search(r"[$@%]", value)):
            # MONAI would run such a text as code
            raise ValueError(f"the setting {key} must be a number or a plain text, got {value!r}.")
    return parser


def task_of(bundle: Bundle) -> str:
    """Return a bundle's task, a key of :data:`medrestore_monai.classical.BASELINES`.

    Raises:
        ValueError: neither its name nor its card tells.
    """
    for words in (bundle.name, str(bundle.metadata["task"])):
        for part, task in _TASKS.items():
            if part in words.lower():
                return task
    raise ValueError(f"the task of {bundle.name} is unknown here: name the classical baselines, or none.")
