"""One bundle as a task of MONAI Label, and many images one after the other."""

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from medrestore_monai.bundles import Bundle
from medrestore_monai.dicom.derivation import RESEARCH
from medrestore_monai.images import KINDS
from medrestore_monai.label_app.dicomweb import store_series
from medrestore_monai.label_app.endpoints import LARGEST_UNPACKED, LARGEST_UPLOAD
from medrestore_monai.label_app.options import Wanted, offered_settings, read_request, shown_options
from medrestore_monai.label_app.received import check_size
from medrestore_monai.label_app.results import require_one_grid, write_result
from medrestore_monai.restorer import Restored, Restorer

logger = logging.getLogger(__name__)
# MONAI Label has threads, and memory is for one image
_one_at_a_time = threading.Lock()


class RestoreTask(InferTask):
    """Restores one image as ``medrestore restore`` does, with the bundle's ``inference.json``.

    Args:
        bundle: the model.
        client: of the DICOMweb store, where there is one.
        limits: bytes of an image file, and of what it unpacks to.
    """

    def __init__(
        self, bundle: Bundle, client: Any = None, limits: tuple[int, int] = (LARGEST_UPLOAD, LARGEST_UNPACKED)
    ) -> None:
        self.bundle, self.client, self.limits = bundle, client, limits
        self._opened: tuple[Any, Restorer] | None = None
        devices = [*(f"cuda:{index}" for index in range(torch.cuda.device_count())), "cpu"]
        devices += ["mps"] * torch.backends.mps.is_available()
        self.offered = offered_settings(bundle, devices, client is not None)
        description = f"{bundle.metadata.get('name', bundle.name)}. {bundle.metadata.get('description', '')}"
        shown = shown_options(bundle, self.offered)
        super().__init__(InferType.OTHERS, labels=None, dimension=3, description=description, config=shown)

    @property
    def modalities(self) -> list[str]:
        """The DICOM modalities that the bundle restores."""
        return list(self.bundle.dicom_modalities)

    def is_valid(self) -> bool:
        """Return whether the weights are there."""
        return self.bundle.weights.is_file()

    def get_path(self, validate: bool = True) -> str | None:
        """Return the path of the weights, if they are there or ``validate`` is off."""
        return str(self.bundle.weights) if self.is_valid() or not validate else None

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Restore ``request["image"]``, a file or the folder of a series.

        Returns:
            A file, which the caller deletes, and what was done.

        Raises:
            ValueError: the image or an option cannot be used.
            OSError: something cannot be read, written or stored.
            RuntimeError: the device is not available, or memory does not suffice.
        """
        wanted, source = read_request(request, self.offered), Path(request["image"])
        if wanted.write_back and not source.is_dir():
            raise ValueError("write_back needs a DICOM series of the store, not an image file.")
        check_size(source, *self.limits)
        began = time.monotonic()
        with (
            tempfile.TemporaryDirectory(prefix="medrestore-label-") as place,
            _one_at_a_time,
        ):
            restored = self._restore(source, Path(place), wanted)
            made = write_result(
                restored.outputs[0], Path(place), wanted.dtype, wanted.extension
            )  # before anything is stored
            stored = store_series(self.client, restored.outputs[0]) if wanted.write_back else {}
            result = _keep(made)
        done = {
            "bundle": self.bundle.name,
            "version": self.bundle.metadata["version"],
            "device": wanted.device,
            "options": dict(wanted.overrides),
            "seconds": round(time.monotonic() - began, 2),
            "notes": [RESEARCH, *restored.notes],
            "label_names": {},
            **stored,
        }
        logger.info("%s: %s s on %s", self.bundle.name, done["seconds"], wanted.device)
        return result, done

    def _restore(self, source: Path, folder: Path, wanted: Wanted) -> Restored:
        if KINDS.get(_ending(source)) is None:
            require_one_grid(source, wanted.overrides.get("series_uid") or None)
        target = folder / ("series" if _ending(source) in ("", ".zip") else f"image{_ending(source)}")
        opening = {name for name, setting in self.offered.items() if setting.when == "opening"}
        settings = {name: value for name, value in wanted.overrides.items() if name not in opening}
        opened = {name: value for name, value in wanted.overrides.items() if name in opening}
        result = self._open(wanted.device, opened).restore_file(source, target, **settings)
        if len(result.outputs) != 1:
            raise ValueError(f"the image holds {len(result.outputs)} images or series; send one at a time.")
        return result

    def _open(self, device: str, settings: dict[str, Any]) -> Restorer:
        """Return the bundle opened with these settings; it stays open while they and its files do not change."""
        files = [path.stat() for path in (self.bundle.weights, self.bundle.config("inference"))]
        key = (device, *sorted(settings.items()), *((file.st_mtime_ns, file.st_size) for file in files))
        if self._opened is None or self._opened[0] != key:
            self._opened = None  # its memory goes before the next one needs some
            self._opened = (key, Restorer(self.bundle, device=device, **settings))
        return self._opened[1]


class BatchRestore(BatchInferTask):
    """Restores many images one after the other, also without a GPU; a bad one is noted and left out.

    Args:
        tasks: by name.
        list_series: gives the images of a DICOMweb store that have one of some modalities; ``None`` for a folder.
    """

    def __init__(
        self, tasks: dict[str, RestoreTask], list_series: Callable[[list[str]], list[str]] | None = None
    ) -> None:
        self.tasks, self.list_series = tasks, list_series

    def get_images(self, request: dict[str, Any], datastore: Any) -> list[str]:
        """Return the images that a request names; of a DICOMweb store those that the bundle can restore."""
        images: list[str] = super().get_images(request, datastore)
        if self.list_series is None or not isinstance(request.get("images", "all"), str):
            return images
        task = self.tasks.get(str(request.get("model")))
        fitting = self.list_series(task.modalities) if task else []
        return [image for image in fitting if image in images]

    def __call__(self, request: dict[str, Any], datastore: Any, infer: Callable[..., Any]) -> dict[str, Any]:
        """Restore them, and return what came of each: what :class:`RestoreTask` returns, or the ``error``.

        Raises:
            ValueError: the results would be lost: a DICOMweb store takes series only, which needs ``write_back``.
        """
        if self.list_series is not None and str(request.get("write_back")).lower() != "true":
            raise ValueError("a batch on a DICOMweb store keeps its results as series only: set write_back to true.")

        def tried(one: dict[str, Any], store: Any) -> dict[str, Any]:
            try:
                with store.keeping_results():
                    result: dict[str, Any] = infer(one, store)
            except HTTPException as error:
                logger.warning("an image was left out: %s", error.detail)
                return {"error": str(error.detail)}
            return result

        here = {"multi_gpu": torch.cuda.is_available() and bool(request.get("multi_gpu", True)), "max_workers": 1}
        results: dict[str, Any] = super().__call__({**request, **here}, datastore, tried)
        return results


def _ending(path: Path) -> str:
    endings = [ending for ending in (*KINDS, ".zip") if path.name.lower().endswith(ending)]
    return max(endings, key=len, default="" if path.is_dir() else path.suffix.lower())


def _keep(file: Path) -> str:
    """Move a file out of a folder that will vanish, under a neutral name."""
    handle, target = tempfile.mkstemp(prefix="restored-", suffix=_ending(file))
    os.close(handle)
    shutil.move(file, target)
    return target
