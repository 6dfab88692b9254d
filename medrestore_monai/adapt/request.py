"""What a user asks to adapt, and whether that can work at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from medrestore_monai.audit.writing import report_folder
from medrestore_monai.bundles import DEFAULT_BUNDLE, Bundle, open_bundle, sha256, verify_weights
from medrestore_monai.bundles.settings import require_device
from medrestore_monai.bundles.shared_settings import MODALITY
from medrestore_monai.data import Division
from medrestore_monai.data.adaptation import TARGETS
from medrestore_monai.data.find import is_image_file, partner_of
from medrestore_monai.dicom import find_series
from medrestore_monai.files import UsageError, require_writable

CONFIGS = ("inference", "evaluate", "train", "adapt")
OVERLAYS = {"pairs": "adapt_pairs", "none": "adapt_none"}  # of adapt.json, by targets
REPORT = "report.json"
_WITHOUT_TARGETS = ("denoising", "synthesis")
_WHY_NOT = {
    "deblurring": "degraded images alone say nothing about the blur's lost frequencies, which shifts and rotations of "
    "them do not add",
    "super-resolution": "degraded images alone say nothing about the k-space that was not measured, and there is no "
    "noise to remove",
}


@dataclass(frozen=True)
class Request:
    """What to adapt.

    Args:
        data: the images of the site: a folder; of pairs, with folders ``LQ`` and ``HQ``.
        output: the folder of the new bundle; its name becomes that of the bundle. The report goes to
            ``<output>_report`` beside it.
        bundle: what to begin with, by name or folder.
        targets: ``clean``, routine images that the bundle's own simulation degrades; ``pairs``; or ``none``, degraded
            images alone, for CT and PET.
        modality: of the images, for a bundle of several.
        minutes: that it may take, verdict included.
        steps: of the training, instead of ``minutes``; rounded up to whole epochs.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        seed: of the division and the training.
        hu_offset: of CT files, see :class:`~medrestore_monai.data.LoadImageOrSeriesd`.
        allow_gaps: take DICOM series with missing slices.
        overwrite: replace a bundle and a report that exist.
        trust_bundle: see :func:`~medrestore_monai.bundles.open_bundle`.
        settings: other values of ``adapt.json``.
    """

    data: Path
    output: Path
    bundle: str | Path = DEFAULT_BUNDLE
    targets: str = "clean"
    modality: str | None = None
    minutes: float | None = 30.0
    steps: int | None = None
    device: str = "auto"
    seed: int = 0
    hu_offset: float | None = None
    allow_gaps: bool = False
    overwrite: bool = False
    trust_bundle: bool = False
    settings: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Refuse what cannot work whatever the images are.

        Raises:
            ValueError: something is unknown or out of its range, or the bundle cannot be adapted.
            FileExistsError: there is something at ``output`` already.
            RuntimeError: the device is not available.
        """
        if self.targets not in TARGETS:
            raise ValueError(f"targets must be one of {', '.join(TARGETS)}, got {self.targets!r}.")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}.")
        if self.steps is None and not (self.minutes is not None and self.minutes > 0):
            raise ValueError(f"minutes must be above 0, got {self.minutes}.")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}.")
        require_device(self.device)
        task = self.opened.task(self.of_modality)
        if self.targets == "none" and task not in _WITHOUT_TARGETS:
            reason = _WHY_NOT.get(task, "no method without targets is known for it")
            raise UsageError(f"{task} cannot be adapted without targets: {reason}. Give clean images.")
        self._require(self.opened, *([OVERLAYS[self.targets]] if self.targets in OVERLAYS else []))
        if self.hu_offset is not None and self.of_modality != "CT":
            raise ValueError(f"`hu_offset` is for CT, not for {self.of_modality}.")
        if self.data.resolve() in (self.output.resolve(), *self.output.resolve().parents):
            raise ValueError(f"the bundle {self.output} may not lie in the data {self.data}.")
        for place, mark in ((self.output, "configs/metadata.json"), (self.report, REPORT)):
            if place.exists() and not self.overwrite:
                raise FileExistsError(f"{place} exists; name another folder, or give `overwrite`.")
            if place.exists() and not (place / mark).is_file():
                raise FileExistsError(f"{place} is none of an earlier adaptation: it is not overwritten.")
            if self.opened.root.resolve() in (place.resolve(), *place.resolve().parents):
                raise ValueError(f"{place} may not lie in the bundle that is adapted, nor be it.")
        require_writable(self.output)

    @cached_property
    def opened(self) -> Bundle:
        """The bundle to begin with.

        Raises:
            ValueError: there is no such bundle, it may not run, or it has no such ``adapt.json``.
        """
        bundle = open_bundle(self.bundle, self.trust_bundle, (*CONFIGS, *OVERLAYS.values()))
        self._require(bundle, *CONFIGS)
        verify_weights(bundle.weights, bundle.root)
        return bundle

    def _require(self, bundle: Bundle, *names: str) -> None:
        missing = [name for name in names if not bundle.config(name).is_file()]
        if missing:
            raise ValueError(f"the bundle {bundle.name} cannot be adapted to {self.targets}: no {missing[0]}.json.")

    @property
    def of_modality(self) -> str:
        """The modality of the images.

        Raises:
            ValueError: the bundle does not restore it, or restores several and none is named.
        """
        known = self.opened.evaluated
        if self.modality is None and len(known) > 1:
            raise ValueError(f"{self.opened.name} restores {', '.join(known)}: name the `modality` of the images.")
        named = known[0] if self.modality is None else str(MODALITY.check(self.modality))
        if named not in known:
            raise ValueError(f"{self.opened.name} restores {', '.join(known)}, not {named}.")
        return named

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return report_folder(self.output)

    def fingerprint(self, division: Division) -> str:
        """Return a digest of all that decides what comes out, for a run that goes on after it was killed.

        The images are known by the places, sizes and times of writing of their files.
        """
        files = cache(_files)
        slabs = [[part, *_place(slab, files)] for part, slabs in division.parts.items() for slab in slabs]
        asked = [self.targets, self.of_modality, self.minutes, self.steps, self.seed, self.hu_offset]
        content = [sha256(self.opened.weights), asked, dict(self.settings or {}), slabs]
        return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


def _place(slab: Mapping[str, Any], files_of: Callable[[str, str], list[Path]]) -> list[Any]:
    place = [str(slab.get(name, "")) for name in ("name", "series_uid", "slices", "start", "stop", "unit")]
    images = [str(slab[key]) for key in ("image", "label") if key in slab]
    return [*place, [_state(file) for path in images for file in files_of(path, slab["series_uid"])]]


def _files(path: str, series_uid: str) -> list[Path]:
    """Return the files of an image or a series; of an archive, the archive."""
    place = Path(path)
    if is_image_file(place):
        return [place, *([partner] if (partner := partner_of(place)) else [])]
    series = find_series(place, problems=[])
    if any(one.archive for one in series):
        return [place]
    return sorted({file.path for one in series if series_uid in ("", one.uid) for file in one.files})


def _state(file: Path) -> tuple[str, int, int]:
    stat = file.stat()
    return str(file.resolve()), stat.st_size, stat.st_mtime_ns
