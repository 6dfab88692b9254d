"""Degrade clean images as a scanner would: for demonstrations, tests and data sets with a known truth."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from rich.console import Console
from rich.progress import track

from medrestore_monai.dicom import Derivation
from medrestore_monai.loading import LoadImageOrSeriesd
from medrestore_monai.saving import SaveLikeSourced, plan_outputs
from medrestore_monai.transforms.ct_noise import CTNoise, NoFlatTissueError, estimate_ct_noise
from medrestore_monai.transforms.fixed import CTLowDosed

TASKS = {"ct_low_dose": "CT"}


def degrade(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    task: str = "ct_low_dose",
    dose: float = 0.25,
    seed: int = 0,
    exact: bool = False,
    series_uid: str = "",
    allow_gaps: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> list[Path]:
    """Simulate a degraded scan of every image of a source, slice by slice, and write the same kind.

    Args:
        source: a file, a DICOM series (file, folder, zip) or a folder of any of them.
        output: a file or folder; see :func:`medrestore_monai.saving.plan_outputs`.
        task: one of :data:`TASKS`.
        dose: fraction of the source's dose, in (0, 1].
        seed: of the noise; the same seed and file names give the same images.
        exact: simulate ray by ray instead of by the fast method, see
            :class:`~medrestore_monai.transforms.fixed.CTLowDosed`.
        series_uid: the series to take, where the source holds several.
        allow_gaps: take a series with missing slices, as single images.
        overwrite: replace outputs that exist.
        progress: show a progress bar over slices on the standard error stream.

    Returns:
        What was written.

    Raises:
        ValueError: the task or the dose is unknown or out of range, or the input cannot be used.
        FileExistsError: an output exists.
    """
    check_task(task)
    if not 0 < dose <= 1:
        raise ValueError(f"dose must be a fraction in (0, 1], got {dose}.")
    load = LoadImageOrSeriesd("image", modality=TASKS[task], allow_gaps=allow_gaps)
    parameters = {"task": task, "dose": dose, "seed": seed, "exact": exact, "simulated": True}
    save = SaveLikeSourced(Derivation("simulated low dose", parameters=parameters), overwrite=overwrite)
    low_dose = CTLowDosed("image", dose=dose, seed=seed, exact=exact)
    written = []
    for item in plan_outputs(source, output, series_uid, overwrite):
        image = load(item)["image"]
        # not the name alone: the folders of all patients may have the same
        name = os.path.relpath(item["image"], Path(source).parent)
        save({"image": image, "pred": _each_slice(low_dose, image, name, progress), "output": item["output"]})
        written.append(Path(item["output"]))
    return written


def check_task(task: str) -> None:
    """Refuse a task that cannot be simulated.

    Raises:
        ValueError: it is none of :data:`TASKS`.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}.")


def _each_slice(degradation: CTLowDosed, image: MetaTensor, name: str, progress: bool) -> torch.Tensor:
    """Degrade an image or the slices of a volume, shape ``(C, X, Y[, Z])``; ``name`` decides the noise."""
    slices = [MetaTensor(one, meta=image.meta) for one in (image.unbind(-1) if image.ndim == 4 else [image])]
    degradation.fallback = None
    results = []
    shown = track(slices, "Simulating slices", console=Console(stderr=True), disable=not progress)
    for number, one in enumerate(shown):
        item: dict[Any, Any] = {"image": one, "name": name, "series_uid": "", "slice": number}
        try:
            try:
                results.append(degradation(item)["image"])
            except NoFlatTissueError:
                degradation.fallback = _usual_noise(slices)
                results.append(degradation(item)["image"])
        except ValueError as error:
            raise ValueError(f"{image.meta['source']}, slice {number}: {error}") from error
    return torch.stack(results, dim=-1) if image.ndim == 4 else results[0]


def _usual_noise(slices: list[MetaTensor]) -> CTNoise | None:
    """Return the noise of the slice in the middle of all that can be measured, for those that cannot."""
    found = []
    for one in slices:
        with suppress(NoFlatTissueError):
            found.append(estimate_ct_noise(one.as_tensor(), float(one.pixdim[0])))
    return sorted(found, key=lambda noise: noise.scale)[len(found) // 2] if found else None
