"""An opened bundle: restores arrays and tensors in memory, files, DICOM series, and folders of them."""

from __future__ import annotations

import copy
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator
from monai.bundle.reference_resolver import ReferenceResolver
from rich.console import Console

from medrestore_monai.bundles import DEFAULT_BUNDLE, Bundle, foreign_values_explained, open_bundle, read_config
from medrestore_monai.bundles.settings import (
    check_values,
    config_values,
    path_text,
    require_device,
    settings_in,
    top_of,
)
from medrestore_monai.bundles.shared_settings import MODALITY
from medrestore_monai.data import check_needs, slices_in, with_padding, without_offset
from medrestore_monai.engines.errors import root_cause, unwrapped
from medrestore_monai.files import claim
from medrestore_monai.images.in_memory import open_in_memory
from medrestore_monai.notes import Notes, note
from medrestore_monai.slice_progress import shown_slices

#: Parts of an ``inference.json`` that a restoration runs.
PARTS = ("network", "load", "scaling", "inferer", "unscaling", "save", "datalist", "evaluator", "run")
_opening = threading.Lock()


@dataclass(frozen=True)
class Restored:
    """What came of one call of :meth:`Restorer.restore_file`.

    Attributes:
        outputs: the restored files, and the folders of derived series.
        sources: of each of them.
        notes: what a user should know of the results.
        seconds: that it took.
        weights_sha256: of the weights.
        settings: of the restoration, as a derived series records them.
    """

    outputs: tuple[Path, ...]
    sources: tuple[Path, ...]
    notes: tuple[str, ...]
    seconds: float
    weights_sha256: str
    settings: Mapping[str, Any]


class Restorer:
    """A bundle that is open: its ``inference.json`` is read and its network is loaded, once.

    Settings of opening are those that the network depends on: ``device``, ``precision``, ``backend``, ``weights``, and
    values in ``network_def``. All others, such as ``strength``, ``self_ensemble`` and ``tile``, are settings of a call;
    given here, they hold for all calls. Several threads may use one restorer.

    Args:
        bundle: the name of a bundle, its folder, or a :class:`~medrestore_monai.bundles.Bundle`; by default the one for
            CT.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; ``auto`` or ``None`` for what the configuration chooses, which
            is never ``mps``: that has not been tested on an Apple GPU.
        precision: ``float32`` or ``bfloat16``; ``None`` for the configuration's.
        backend: ``torch`` or ``onnx``; ``None`` for the configuration's.
        weights: a file of weights in place of the bundle's.
        trust_bundle: run a bundle from elsewhere whatever it holds, see :func:`~medrestore_monai.bundles.open_bundle`.
        configuration: what :func:`~medrestore_monai.bundles.read_config` read of the bundle already, such as
            ``evaluate.json`` laid over ``inference.json``; ``None`` to read ``inference.json``.
        settings: values of the configuration by their names; those deeper in it as ``network_def::dim``.

    Raises:
        ValueError: there is no such bundle or setting, a setting has no such value, or the weights do not fit.
        RuntimeError: the device is not available.

    Examples:
        >>> import numpy as np
        >>> from medrestore_monai import Restorer
        >>> restorer = Restorer("ct_denoise_restore_rwkv", device="cpu", mean_hu="off")
        >>> noise = np.random.default_rng(0).normal(0, 40, (64, 48, 2)).astype(np.float32)
        >>> image = np.where(np.hypot(*np.ogrid[-32:32, -24:24])[..., None] < 20, 40, -1000) + noise
        >>> restored = restorer(image.astype(np.float32), spacing=(0.7, 0.7, 5))
        >>> restored.shape, restored.dtype
        ((64, 48, 2), dtype('float32'))
        >>> bool(restored[25:40, 20:30].std() < image[25:40, 20:30].std() / 2)
        True
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        device: str | None = None,
        precision: str | None = None,
        backend: str | None = None,
        weights: str | os.PathLike[str] | None = None,
        trust_bundle: bool = False,
        configuration: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        name = DEFAULT_BUNDLE if bundle is None else bundle.root if isinstance(bundle, Bundle) else bundle
        self.bundle = open_bundle(name, trust_bundle)
        file = self.bundle.config("inference")
        content = read_config(file).config if configuration is None else configuration
        self._config: dict[str, Any] = {**content, "_meta_": self.bundle.metadata}
        missing = [part for part in PARTS if part not in self._config]
        if missing:
            raise ValueError(
                f"{file} has no {', '.join(missing)}: bring it to the form of the bundles of this version."
            )
        self._locator, self._of_opening = ComponentLocator(), _reached(self._config, "network")
        if backend == "onnx" and device in (None, "auto"):
            device = "cpu"
        self._declared = settings_in(self.bundle.settings, self._config)
        given = {"device": device, "precision": precision, "backend": backend, "weights": weights, **settings}
        self._values = self._checked(given)
        without_effect = {name for name, setting in self._declared.items() if not setting.recorded}
        checked = check_values(self._declared, given)
        #: Settings that it was opened with, but for those that do not change a result, such as the device.
        self.settings = {name: value for name, value in checked.items() if name not in without_effect}
        self._open()

    def _open(self) -> None:
        values = {"bundle_root": path_text(self.bundle.root), **self._values}
        parser = self._parser(values)
        with (
            _opening,
            self._explained(),
            torch.random.fork_rng(devices=[]),
        ):  # building a network draws its first weights
            for part in ("load", "scaling", "inferer", "unscaling"):
                parser.get_parsed_content(part)
            if any(top_of(name) == "network_def" for name in self._values):
                _build_network(parser)
            network = parser.get_parsed_content("network")
            self.weights_sha256: str = parser.get_parsed_content("weights_sha256")
            self.device: torch.device = parser.get_parsed_content("device")
        of_network = {name: value for name, value in self._values.items() if top_of(name) == "network_def"}
        changed = {re.sub("#|::", ".", name): value for name, value in of_network.items()}
        recorded = {f"derivation::parameters::{name}": value for name, value in changed.items()}
        opened = {"network": network, "weights_sha256": self.weights_sha256}
        self._values = {**values, **(recorded if "derivation" in self._config else {}), **opened}

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of the images that it restores; ``RGB`` for pictures."""
        return self.bundle.modalities

    def check(self, **settings: Any) -> None:
        """Refuse settings of a call before an image is read.

        Raises:
            ValueError: there is no such setting, it is one of opening, or it has no such value.
        """
        parser = self.configured(**settings)
        with self._explained():
            for part in ("load", "scaling", "inferer", "unscaling"):
                parser.get_parsed_content(part)

    def configured(self, places: Mapping[str, Any] | None = None, **settings: Any) -> ConfigParser:
        """Return the configuration of one call, with the network that is open; no file is read again.

        Args:
            places: values that are no settings, such as ``dataset_dir``.
            settings: of the call.

        Raises:
            ValueError: see :meth:`check`.
        """
        return self._parser({**self._of_call(settings), **(places or {})})

    def __call__(
        self,
        image: Any,
        *,
        modality: str | None = None,
        spacing: Sequence[float] | None = None,
        slice_axis: int | None = None,
        suv_factor: float | None = None,
        progress: bool = False,
        **settings: Any,
    ) -> Any:
        """Restore an image in memory, as a file with the same values would be.

        Integers are rounded and clipped to the range of their type. That and other notes on the result go to the
        :class:`~medrestore_monai.notes.Notes` of the caller, else they become warnings.

        Args:
            image: a NumPy array or tensor ``(X, Y[, Z])``, for pictures ``(rows, columns)`` or ``(rows, columns, 3)``;
                a ``MetaTensor`` ``(C, X, Y[, Z])``; an image of nibabel (NIfTI) or SimpleITK.
            modality: ``CT``, ``MR`` or ``PT`` of an image for a bundle of several modalities; ``RGB`` for pictures.
            spacing: mm along each axis of an array; a network that sees neighboring slices needs it.
            slice_axis: the axis along which the slices of a volume are stacked; the last one by default.
            suv_factor: SUV per unit of a PET image, which is in SUV already by default.
            progress: show a progress bar over slices on the standard error stream.
            settings: of this call.

        Returns:
            The restored image: the same type, shape, data type, grid, device and meta data.

        Raises:
            TypeError: ``image`` is something else, or holds no numbers.
            ValueError: the image or a setting cannot be used.
            RuntimeError: memory does not suffice.
        """
        given = {**settings, "modality": modality, "suv_factor": suv_factor}
        with Notes() as notes:
            restored = self._restore(image, self._of_call(given), modality, spacing, slice_axis, progress)
        for message in notes.messages:
            note(message)
        return restored

    def restore_file(
        self,
        source: str | os.PathLike[str],
        output: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        progress: bool = False,
        **settings: Any,
    ) -> Restored:
        """Restore an image file, a DICOM series or a folder of them, as ``medrestore restore`` does.

        Of many images, those before a bad one are finished and stay.

        Args:
            source: a file, a DICOM series (file, folder, zip) or a folder of any of them; it is never changed.
            output: a file or folder; see :func:`medrestore_monai.data.plan_outputs`.
            overwrite: replace outputs that exist.
            progress: show a progress bar over slices on the standard error stream.
            settings: of this call, such as ``strength``, ``modality``, ``series_uid`` and ``allow_gaps``.

        Raises:
            ValueError: the input or a setting cannot be used; nothing was written for that image.
            FileExistsError: an output exists.
            OSError: an output cannot be written.
            RuntimeError: memory does not suffice.
        """
        began = time.monotonic()
        # paths, not texts: MONAI would run a text that starts with "$" as code, and put "::" for "#"
        places = {"dataset_dir": Path(source), "output_dir": Path(output)}
        parser = self.configured({**places, "overwrite": overwrite, "progress": progress}, **settings)
        with Notes() as notes, self._explained():
            try:
                for part in ("load", "scaling", "inferer", "unscaling", "evaluator"):
                    parser.get_parsed_content(part)
                planned = parser.get_parsed_content("datalist")
                total = sum(
                    int(item.get("stop") or 0) - int(item.get("start") or 0) or slices_in(item) for item in planned
                )
                # two runs with the same work collide here
                with claim(Path(planned[0]["output"])), shown_slices(total, progress):
                    self._show_needs(parser, planned, progress)
                    parser.get_parsed_content("run")
                derivation = parser.get_parsed_content("derivation") if "derivation" in self._config else None
            finally:
                for part in ("load", "save"):
                    close = getattr(parser.ref_resolver.resolved_content.get(part), "close", None)
                    if close is not None:
                        close()
        sources = {Path(item["output"]): Path(item["image"]) for item in planned}  # slabs of one image have one output
        return Restored(
            outputs=tuple(sources),
            sources=tuple(sources.values()),
            notes=tuple(notes.messages),
            seconds=time.monotonic() - began,
            weights_sha256=self.weights_sha256,
            settings=dict(getattr(derivation, "parameters", {})),
        )

    def _show_needs(self, parser: ConfigParser, planned: Sequence[Mapping[str, Any]], show: bool) -> None:
        """Estimate the memory of a restoration, print it, and refuse one that there is too little for."""
        inferer, load = (parser.get_parsed_content(part) for part in ("inferer", "load"))
        per_pixel = getattr(inferer, "bytes_per_pixel", None) or 0
        if self.device.type != "cpu" or getattr(inferer, "strength", 1) == 0:
            per_pixel = 0
        most_workers = getattr(inferer, "most_workers", None)
        workers = 1 if most_workers is None else most_workers(self._values["network"], self.device)
        needed, free = check_needs(planned, per_pixel, getattr(load, "context", 0), workers)
        if show:
            room = "" if free is None else f", {free / 1e9:.1f} GB are free"
            Console(stderr=True).print(f"Memory: about {needed / 1e9:.2f} GB{room}.", highlight=False, soft_wrap=True)

    def _restore(
        self,
        image: Any,
        values: Mapping[str, Any],
        modality: str | None,
        spacing: Sequence[float] | None,
        slice_axis: int | None,
        progress: bool,
    ) -> Any:
        pictures = "RGB" in self.modalities and (modality is None or MODALITY.check(modality) == "RGB")
        only = pictures and (modality is not None or self.modalities == ("RGB",))
        axis = self._values.get("slice_axis") if slice_axis is None else slice_axis
        opened = open_in_memory(image, only, pictures, spacing, axis)
        meta = opened.meta
        if only or meta["original_channel_dim"] == 0:
            meta["modality"] = "RGB" if meta["original_channel_dim"] == 0 else "GRAY"
        parser = self._parser({**values, "progress": progress})
        with self._explained(), torch.no_grad():
            load, scaling, inferer, unscaling = (
                parser.get_parsed_content(part) for part in ("load", "scaling", "inferer", "unscaling")
            )
            said = getattr(load, "modality", None)
            if None not in (said, meta.get("modality")) and said != meta["modality"]:
                raise ValueError(f"the image is of modality {meta['modality']}, where {said} is expected.")
            item = scaling({"image": load.take(opened.array, meta)})
            amp = bool(parser.get_parsed_content("amp")) if "amp" in self._config else False
            with torch.autocast("cuda", enabled=amp and self.device.type == "cuda"):
                pred = inferer(item["image"][None], self._values["network"])[0]
            restored = unscaling({**item, "pred": pred})["pred"]
            noted = item["image"].meta
            array = with_padding(without_offset(restored.detach().cpu().numpy(), noted), noted)
        return opened.like(array if meta["original_channel_dim"] == 0 else array[0])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        with foreign_values_explained(self.bundle.root), unwrapped():
            yield

    def _parser(self, values: Mapping[str, Any]) -> ConfigParser:
        """Return the configuration with other values; what was loaded at opening is among them."""
        parser = ConfigParser(copy.deepcopy(self._config))
        parser.locator = self._locator  # it has looked through MONAI's modules already
        parser.update({**self._values, **values})
        return parser

    def _of_call(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        values = self._checked(settings)
        for name in values:
            if top_of(name) in self._of_opening:
                raise ValueError(f"{name} is set when the bundle is opened: Restorer(..., {top_of(name)}=...).")
        return values

    def _checked(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Turn settings into values of the configuration.

        Raises:
            ValueError: there is no such setting, or it has no such value.
            RuntimeError: a device is not there.
        """
        values = check_values(self._declared, settings)
        require_device(values.get("device", "auto"))
        return config_values(self._declared, values)


def restore(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    bundle: str | os.PathLike[str] | Bundle | None = None,
    *,
    overwrite: bool = False,
    progress: bool = False,
    **settings: Any,
) -> Restored:
    """Open a bundle and restore a file, a DICOM series or a folder of them; for more than one, keep a Restorer.

    Args:
        source: see :meth:`Restorer.restore_file`.
        output: see :meth:`Restorer.restore_file`.
        bundle: see :class:`Restorer`.
        overwrite: see :meth:`Restorer.restore_file`.
        progress: see :meth:`Restorer.restore_file`.
        settings: of opening and of the call.

    Raises:
        ValueError: see :class:`Restorer` and :meth:`Restorer.restore_file`.
        OSError: see :meth:`Restorer.restore_file`.
        RuntimeError: see :class:`Restorer` and :meth:`Restorer.restore_file`.
    """
    return Restorer(bundle, **settings).restore_file(source, output, overwrite=overwrite, progress=progress)


def _reached(config: Mapping[str, Any], name: str) -> set[str]:
    """Return the keys at the top of a configuration that one of them refers to, directly or not."""
    found: set[str] = set()
    todo = [name]
    while todo:
        key = todo.pop()
        if key not in found:
            found.add(key)
            for text in _texts(config.get(key)):
                todo += [top_of(reference) for reference in ReferenceResolver.match_refs_pattern(text)]
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for child in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _texts(child)


def _build_network(parser: ConfigParser) -> None:
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
