"""A bundle as its ``evaluate.json``, laid over ``inference.json``, describes it: ready to restore image after image."""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from medrestore_monai.bundles import Bundle, foreign_values_explained, is_path, open_bundle, open_overlay, read_config
from medrestore_monai.bundles.settings import check_values, config_values, require_device, settings_in
from medrestore_monai.data import Item
from medrestore_monai.engines.errors import unwrapped
from medrestore_monai.restorer import Restorer


@dataclass(frozen=True)
class Candidate:
    """What takes part in an evaluation: a bundle as it is, or its recipe with another network or other weights.

    Args:
        name: as the tables call it.
        bundle: the bundle.
        overlay: a configuration whose ``network_def`` goes over that of ``inference.json``; what else it holds is for
            training. ``None`` for the bundle's own network.
        weights: a file; ``None`` for the bundle's own.

    Raises:
        ValueError: a file is missing.
    """

    name: str
    bundle: Bundle
    overlay: Path | None = None
    weights: Path | None = None

    def __post_init__(self) -> None:
        for path in (self.overlay, self.weights):
            if path is not None and not path.is_file():
                raise ValueError(f"there is no file {path}, for {self.name}.")

    @cached_property
    def configuration(self) -> Mapping[str, Any]:
        """``evaluate.json`` laid over ``inference.json``, with the network of the overlay: read once.

        Raises:
            ValueError: there is no ``evaluate.json``, or the overlay has no network.
        """
        files = [self.bundle.config(name) for name in ("inference", "evaluate")]
        if not files[1].is_file():
            raise ValueError(f"the bundle {self.bundle.name} has no evaluate.json.")
        parser = read_config(*files)
        if self.overlay is not None:
            parser.update(_network_of(self.overlay))
        return dict(parser.config)

    def open(self, device: str, settings: Mapping[str, Any]) -> Restorer:
        """Open the bundle for all modalities that it is evaluated on.

        Args:
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            settings: values to change in the configurations.

        Raises:
            ValueError: there is no such setting, or the weights do not fit.
        """
        own = {"device": device, "weights": self.weights}
        return Restorer(self.bundle, configuration=self.configuration, **{**own, **settings})


def parse_candidate(text: str, trust_bundle: bool = False) -> Candidate:
    """Turn ``LABEL=BUNDLE,OVERLAY.json,WEIGHTS.pt`` into a candidate; overlay, weights or both may be left out.

    An overlay without a folder is first looked for in the bundle's ``configs``: a configuration is code.

    Args:
        text: what a user gave.
        trust_bundle: see :func:`~medrestore_monai.bundles.open_bundle`; of the overlay, too.

    Raises:
        UntrustedBundleError: see there.
        ValueError: it is no such text, there is no such bundle, or a file is missing.
    """
    name, equals, rest = text.partition("=")
    place, *files = rest.split(",")
    overlays = [file for file in files if file.endswith(".json")]
    weights = [Path(file) for file in files if file and not file.endswith(".json")]
    if not (name and equals and place) or max(len(overlays), len(weights)) > 1 or "" in files:
        raise ValueError(f"a model is LABEL=BUNDLE,OVERLAY.json,WEIGHTS.pt, got {text!r}.")
    if not re.fullmatch(r"[\w.-]+", name):  # it becomes part of file names
        raise ValueError(f"a label has letters, digits, dots, dashes and underscores only, got {name!r}.")
    bundle = open_bundle(place, trust_bundle, ("inference", "evaluate"))
    overlay = Path(overlays[0]) if overlays else None
    if overlay is not None and not is_path(overlays[0]):
        own = bundle.root / "configs" / overlay
        overlay = own if own.is_file() or not overlay.is_file() else overlay
    if overlay is not None and overlay.is_file():
        open_overlay(overlay, trust_bundle)
    return Candidate(name, bundle, overlay, weights[0] if weights else None)


@dataclass(frozen=True)
class Model:
    """One candidate that is open, for images of one modality.

    Args:
        candidate: what it is.
        restorer: of the candidate.
        modality: of the images it restores here.
        parser: the configuration of the restorer, with the data and settings of this evaluation.
        degrading: from an item of its data list to ``image`` and ``label`` in physical units.
        scaling: from these to what the network sees.
        network: of the restorer.
        inferer: runs it.
        unscaling: brings ``pred`` back to physical units, with all that restoration does after the network.
    """

    candidate: Candidate
    restorer: Restorer
    modality: str
    parser: ConfigParser
    degrading: Compose
    scaling: Compose
    network: Any
    inferer: Any
    unscaling: Any

    @property
    def name(self) -> str:
        """As the tables call it."""
        return self.candidate.name

    @property
    def settings(self) -> dict[str, Any]:
        """Numbers and switches that can be set, such as dose and seed."""
        config = self.parser.get()
        found = {one.key: config.get(one.key) for one in self.candidate.bundle.settings.values()}
        return {name: value for name, value in found.items() if isinstance(value, bool | int | float)}

    @property
    def context(self) -> int:
        """How many slices on each side the network sees, the key ``context`` of ``inference.json``; 0 for none."""
        return int(self.parser.get().get("context", 0))

    def items(self) -> list[Item]:
        """List the images that the bundle's own data list finds.

        Raises:
            ValueError: see :mod:`medrestore_monai.data`.
        """
        with unwrapped():
            return list(self.parser.get_parsed_content("datalist"))

    def restore(self, item: Mapping[Any, Any]) -> torch.Tensor:
        """Restore ``item["image"]``, given in physical units with shape ``(C, X, Y[, Z])``; the label is not used."""
        with unwrapped(), torch.no_grad():
            scaled = self.scaling(dict(item))
            pred = self.inferer(scaled["image"][None], self.network)[0]
            restored: torch.Tensor = self.unscaling({**scaled, "pred": pred})["pred"]
        return restored.as_subclass(torch.Tensor)


def open_model(
    candidate: Candidate,
    modality: str,
    data: Path,
    device: str,
    settings: Mapping[str, Any],
    wishes: Mapping[str, Any],
    restorer: Restorer | None = None,
) -> Model:
    """Prepare a candidate for the images of one modality.

    Args:
        candidate: the bundle, and what differs from it.
        modality: of the images; one of the bundle's.
        data: the folder for its data list.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        settings: values to change in the configurations.
        wishes: the same, but left out if the bundle has no such setting.
        restorer: of the candidate with this device and these settings, if it is open already.

    Raises:
        ValueError: there is no such setting, or the weights do not fit.
    """
    restorer = restorer or candidate.open(device, settings)
    declared = settings_in(candidate.bundle.settings, candidate.configuration)
    fitting = {name for name, one in declared.items() if one.modality in ("", modality)} - set(settings)
    asked = {name: value for name, value in {"modality": modality, **wishes}.items() if name in fitting}
    # a path, not a text: MONAI would run a text that starts with "$" as code, and put "::" for "#"
    parser = restorer.configured({"dataset_dir": Path(data)}, **asked)
    with foreign_values_explained(candidate.bundle.root), unwrapped():
        return Model(
            candidate=candidate,
            restorer=restorer,
            modality=modality,
            parser=parser,
            degrading=Compose([parser.get_parsed_content(part) for part in ("load", "degradation")]),
            scaling=parser.get_parsed_content("scaling"),
            network=parser.get_parsed_content("network"),
            inferer=parser.get_parsed_content("inferer"),
            unscaling=parser.get_parsed_content("unscaling"),
        )


def check_settings(candidate: Candidate, device: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings and overlays before anything is loaded.

    Raises:
        ValueError: the bundle cannot be evaluated, a setting is unknown or out of its range, or the overlay has no
            network.
        RuntimeError: the device is not available.
    """
    if "slice_axis" in settings:  # the lists of slices are made by the headers
        raise ValueError("an evaluation takes the slices of volumes as their headers say: leave slice_axis out.")
    parser = ConfigParser(deepcopy(dict(candidate.configuration)))
    declared = settings_in(candidate.bundle.settings, parser.config)
    values = check_values(declared, {"device": device, **settings})
    require_device(values["device"])
    parser.update(config_values(declared, values))
    with foreign_values_explained(candidate.bundle.root), unwrapped():
        for part in ("load", "degradation", "scaling", "inferer", "unscaling"):
            parser.get_parsed_content(part)


def _network_of(overlay: Path) -> dict[str, Any]:
    try:
        content = dict(ConfigParser.load_config_file(str(open_overlay(overlay))))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{overlay} is no configuration: {error}.") from error
    network = {key: value for key, value in content.items() if re.split("#|::", key)[0] == "network_def"}
    if not network:
        raise ValueError(f"{overlay} says nothing of network_def.")
    return network
