"""Degrade clean images as a scanner would: for demonstrations, tests and data sets with a known truth."""

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Lambdad
from rich.console import Console
from rich.progress import track

from medrestore_monai.data import LoadImageOrSeriesd, SaveLikeSourced, plan_outputs
from medrestore_monai.dicom import Derivation
from medrestore_monai.engines.errors import unwrapped
from medrestore_monai.files import claim
from medrestore_monai.intensity import MOST_SUV, NOT_YET_SUV
from medrestore_monai.stopping import stop_if_asked
from medrestore_monai.transforms.blur import (
    RandAnisotropicGaussianBlurd,
    RandBentMotionBlurd,
    RandDefocusBlurd,
    RandGaussianBlurd,
    RandLinearMotionBlurd,
    RandMotionBlurd,
    RandVaryingBlurd,
)
from medrestore_monai.transforms.ct.low_dose import CTLowDose
from medrestore_monai.transforms.ct.noise import NoFlatTissueError
from medrestore_monai.transforms.ct.noise_measure import typical_noise
from medrestore_monai.transforms.ct.simulate import SimulateCTLowDosed
from medrestore_monai.transforms.degradation import RandDegradationd
from medrestore_monai.transforms.fixed import FixedDegradationd
from medrestore_monai.transforms.jpeg import RandJPEGd
from medrestore_monai.transforms.mri_kspace import KSpaceTruncationd
from medrestore_monai.transforms.pet.simulate import SimulatePETLowCountd
from medrestore_monai.transforms.resolution import RandDownSamplingd
from medrestore_monai.transforms.sensor_noise import RandSensorNoised

Transformation = Callable[[Mapping[Any, Any]], Mapping[Any, Any]]


@dataclass(frozen=True)
class Task:
    """One degradation that can be simulated.

    Attributes:
        words: what a DICOM header records of it.
        options: what it takes, and the defaults; a pair is a range to draw from, once for each image.
        make: builds what degrades one slice ``image`` of an item, from a seed and all options.
        modality: DICOM's word for the only modality it is for, or ``None``.
    """

    words: str
    options: Mapping[str, Any]
    make: Callable[..., Transformation]
    modality: str | None = None


@dataclass(frozen=True)
class Simulation:
    """One degraded image.

    Attributes:
        output: where it was written.
        parameters: the options with their drawn values: with them the same image can be had again.
        source: the clean image.
    """

    output: Path
    parameters: Mapping[str, Any]
    source: Path


def _ct_low_dose(seed: int, dose: float, exact: bool, axial_correlation: float) -> Transformation:
    if not 0 < dose <= 1:
        raise ValueError(f"dose must be a fraction in (0, 1], got {dose}.")
    if exact and axial_correlation:
        raise ValueError("exact slices are independent: leave axial_correlation out, or exact.")
    simulate = SimulateCTLowDosed("image", dose=dose, axial_correlation=axial_correlation, exact=exact)
    return FixedDegradationd(simulate, seed)


def _mri_kspace(seed: int, fraction: float) -> Transformation:
    return KSpaceTruncationd("image", fraction)


def _pet_low_count(seed: int, drf: float, suv_factor: float, axial_width: float) -> Transformation:
    if not suv_factor > 0:
        raise ValueError(f"suv_factor must be above 0, got {suv_factor}.")
    to_suv = Lambdad("image", lambda image: image * suv_factor)
    back = Lambdad("image", lambda image: image / suv_factor)
    low_count = FixedDegradationd(SimulatePETLowCountd("image", drf, axial_width=axial_width), seed)
    return Compose([to_suv, low_count, back])


def _blur(kind: type[RandDegradationd]) -> Callable[..., Transformation]:
    """Return what builds equation 1 of MedDeblur: all slices blurred alike, plus the noise of the sensor."""

    def make(seed: int, noise_std: float, **ranges: Any) -> Transformation:
        return Compose([_same_for_all_slices(kind("image", **ranges), seed), _noise(seed, noise_std)])

    return make


def _sensor_noise(seed: int, noise_std: float | None) -> Transformation:
    if noise_std is None:
        raise ValueError("task sensor_noise needs noise_std, the standard deviation in the unit of the image.")
    return _noise(seed, noise_std)


def _down_sampling(seed: int, factor: Any) -> Transformation:
    return _same_for_all_slices(RandDownSamplingd("image", factor), seed)


def _jpeg(seed: int, quality: Any, lower: float | None, upper: float | None) -> Transformation:
    if lower is None or upper is None:
        raise ValueError("task jpeg needs lower and upper together.")
    return _same_for_all_slices(RandJPEGd("image", quality, lower, upper), seed)


def _noise(seed: int, std: float) -> FixedDegradationd:
    return FixedDegradationd(RandSensorNoised("image", std), seed, "name")


def _same_for_all_slices(transform: RandDegradationd, seed: int) -> FixedDegradationd:
    return FixedDegradationd(transform, seed, "whole", per_slice=False)


TASKS = {
    "ct_low_dose": Task(
        "simulated low dose", {"dose": 0.25, "exact": False, "axial_correlation": None}, _ct_low_dose, "CT"
    ),
    "mri_kspace": Task("simulated coarse k-space", {"fraction": 0.25}, _mri_kspace, "MR"),
    "pet_low_count": Task(
        "simulated low count", {"drf": 12.0, "suv_factor": None, "axial_width": 5.0}, _pet_low_count, "PT"
    ),
    "motion_blur": Task(
        "simulated motion blur",
        {"length": (20, 45), "angle": (-45.0, 45.0), "noise_std": 0.0},
        _blur(RandMotionBlurd),
    ),
    "linear_motion_blur": Task(
        "simulated straight motion",
        {"length": (3.0, 9.0), "angle": (0.0, 180.0), "noise_std": 0.0},
        _blur(RandLinearMotionBlurd),
    ),
    "bent_motion_blur": Task(
        "simulated bent motion",
        {"length": (3.0, 31.0), "bend": (15.0, 75.0), "angle": (0.0, 360.0), "noise_std": 0.0},
        _blur(RandBentMotionBlurd),
    ),
    "gaussian_blur": Task("simulated Gaussian blur", {"sigma": (0.5, 1.5), "noise_std": 0.0}, _blur(RandGaussianBlurd)),
    "anisotropic_gaussian_blur": Task(
        "simulated anisotropic blur",
        {"sigma_along": (0.5, 5.0), "sigma_across": (0.5, 5.0), "angle": (0.0, 180.0), "noise_std": 0.0},
        _blur(RandAnisotropicGaussianBlurd),
    ),
    "defocus_blur": Task("simulated defocus", {"radius": (1.5, 15.5), "noise_std": 0.0}, _blur(RandDefocusBlurd)),
    "varying_blur": Task("simulated varying blur", {"width": (3.0, 31.0), "noise_std": 0.0}, _blur(RandVaryingBlurd)),
    "sensor_noise": Task("simulated sensor noise", {"noise_std": None}, _sensor_noise),
    "down_sampling": Task("simulated down-sampling", {"factor": (2, 4)}, _down_sampling),
    "jpeg": Task("simulated JPEG", {"quality": (20, 80), "lower": None, "upper": None}, _jpeg),
}


def degrade(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    task: str = "ct_low_dose",
    seed: int = 0,
    series_uid: str = "",
    allow_gaps: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    hu_offset: float | None = None,
    slice_axis: int | None = None,
    stack: int = 0,
    **options: Any,
) -> list[Simulation]:
    """Simulate a degraded scan of every image of a source, slice by slice, and write the same kind.

    The stacks of a DICOM series become one series again: blurred alike, each with noise of its own.

    Args:
        source: a file, a DICOM series (file, folder, zip) or a folder of any of them.
        output: a file or folder; see :func:`medrestore_monai.data.plan_outputs`.
        task: one of :data:`TASKS`.
        seed: of what is drawn; the same seed and file names give the same images.
        series_uid: the series to take, where the source holds several.
        allow_gaps: take a series with missing slices.
        overwrite: replace outputs that exist.
        progress: show a progress bar over slices on the standard error stream.
        hu_offset: of CT, see :class:`~medrestore_monai.data.LoadImageOrSeriesd`.
        slice_axis: of volumes in files, see there.
        stack: of a DICOM series of several (echoes, phases, time points), from 1; 0 for all.
        options: those of the task; ranges and other defaults are in :data:`TASKS`. ``dose``: fraction of the source's
            dose; ``exact``: ray by ray, see :class:`~medrestore_monai.transforms.SimulateCTLowDosed`;
            ``axial_correlation``: of the noise of neighboring slices, in [0, 0.95], by default 0.3, 0 with ``exact``;
            ``fraction``: of the lines of k-space that are kept; ``drf``: dose reduction factor; ``axial_width``: full
            width at half maximum in mm of the filter that correlates the noise of neighboring slices, in [0, 100], by
            the distance of the slices; ``suv_factor``: SUV per unit of the image, by default the header's, and 1 for
            files without a unit; ``length``, ``sigma``, ``sigma_along``, ``sigma_across``, ``radius``, ``width``:
            pixels; ``angle``, ``bend``: degrees, from the first spatial axis towards the second; ``noise_std``: in the
            unit of the image; ``factor``: pixels that become one, along each
            axis; ``quality``: of JPEG, whose 0 and 255 are ``lower`` and ``upper``, in the unit of the image (by
            default the range of the integers of a picture, else the image's own extremes).

    Returns:
        What was written, and the drawn values.

    Raises:
        ValueError: the task or an option is unknown or out of range, the input cannot be used, or the stacks of a
            series have other ranges, so that ``lower`` and ``upper`` must be given.
        FileExistsError: an output exists.
    """
    check_task(task, options)
    chosen = TASKS[task]
    check_hu_offset(task, hu_offset)
    suv = {"factor": options["suv_factor"]} if options.get("suv_factor") else None
    load = LoadImageOrSeriesd("image", chosen.modality, allow_gaps, suv=suv, hu_offset=hu_offset, slice_axis=slice_axis)
    written = []
    with ExitStack() as held:
        for item in plan_outputs(source, output, series_uid, overwrite, allow_gaps=allow_gaps, stack=stack):
            target, first = Path(item["output"]), item["stack"] < 2 or item["stacks"] == 1
            if first:  # the stacks of a series become one
                held.close()
                held.enter_context(claim(target))
            image = load(item)["image"]
            settings = _filled(task, options, image)
            # not the name alone: the folders of all patients may have the same
            name = os.path.relpath(item["image"], Path(source).parent)
            degraded, drawn = _each_slice(chosen.make(seed=seed, **settings), image, name, item["stack"], progress)
            settings = {key: drawn[key] if isinstance(value, tuple) else value for key, value in settings.items()}
            if first:
                parameters = {"task": task, "seed": seed, "simulated": True, **settings}
                save = SaveLikeSourced(Derivation(chosen.words, parameters=parameters), overwrite=overwrite)
                written.append(Simulation(target, settings, Path(item["image"])))
            _require_same(settings, written[-1])
            save({"image": image, "pred": degraded, **{name: item[name] for name in ("output", "stack", "stacks")}})
    return written


def check_task(task: str, options: Mapping[str, Any] | None = None) -> None:
    """Refuse a task that cannot be simulated, and options that it does not have or cannot use.

    Raises:
        ValueError: with one sentence that says what was expected.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}.")
    for name in options or {}:
        if name not in TASKS[task].options:
            known = ", ".join(TASKS[task].options)
            raise ValueError(f"task {task} has no option {name}; it takes {known}.")
    TASKS[task].make(seed=0, **_filled(task, options or {}, MetaTensor(torch.zeros(1, 1, 1))))


def check_hu_offset(task: str, hu_offset: float | None) -> None:
    """Refuse an offset to HU for a task that is not for CT.

    Raises:
        ValueError: the task takes none.
    """
    if hu_offset is not None and TASKS[task].modality != "CT":
        raise ValueError(f"task {task} is not for CT alone and takes no hu_offset.")


def _filled(task: str, options: Mapping[str, Any], image: MetaTensor) -> dict[str, Any]:
    """Return all options of a task: those given, and the defaults."""
    settings = {**TASKS[task].options, **options}
    if task == "jpeg" and settings["lower"] is None and settings["upper"] is None:
        settings["lower"], settings["upper"] = _full_range(image)
    if task == "pet_low_count" and settings["suv_factor"] is None:
        settings["suv_factor"] = _suv_factor(image)
    if task == "ct_low_dose" and settings["axial_correlation"] is None:
        settings["axial_correlation"] = 0.0 if settings["exact"] else CTLowDose(1.0).axial_correlation
    return settings


def _require_same(settings: Mapping[str, Any], series: Simulation) -> None:
    """Refuse a stack that is not degraded as the first one of its series, whose header speaks for all."""
    other = [name for name, value in settings.items() if value != series.parameters[name]]
    if other:
        raise ValueError(f"{series.source}: its stacks would differ in {' and '.join(other)}: give {other[0]}.")


def _suv_factor(image: MetaTensor) -> float:
    """Return the SUV per unit of an image if nothing else is given.

    Raises:
        ValueError: it has another unit, or values that are no SUV.
    """
    if image.meta.get("unit") in NOT_YET_SUV and "suv_factor" not in image.meta:
        raise ValueError(f"{image.meta['source']} does not give its SUV per unit: give the suv_factor.")
    if image.meta.get("unit") is None and float(image.max()) > MOST_SUV:
        raise ValueError(
            f"{image.meta['source']} has values up to {float(image.max()):g}, which are no SUV: give the suv_factor, "
            "the SUV per unit of the image."
        )
    return float(image.meta.get("suv_factor", 1.0))


def _full_range(image: MetaTensor) -> tuple[float, float]:
    """Return the values that the integers of a picture can have, else the extremes of the image."""
    dtype = np.dtype(str(image.meta.get("original_dtype", "float32")))
    calibrated = "scl_slope" in image.meta
    if image.meta.get("kind") in ("png", "jpeg", "tiff") and dtype.kind == "u" and not calibrated:
        return 0.0, float(np.iinfo(dtype).max)
    lower, upper = float(image.min()), float(image.max())
    return lower, upper if upper > lower else lower + 1.0


def _each_slice(
    degradation: Transformation, image: MetaTensor, name: str, stack: int, progress: bool
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Degrade an image or the slices of a volume, shape ``(C, X, Y[, Z])``.

    ``name`` decides what is drawn for all stacks of a series, and with the number of the ``stack`` its noise.

    Returns:
        The degraded image, and the drawn values of the last slice.
    """
    names = {"whole": name, "name": f"{name}/{stack}" if stack > 1 else name, "series_uid": ""}
    slices = [MetaTensor(one, meta=image.meta) for one in (image.unbind(-1) if image.ndim == 4 else [image])]
    results, drawn = [], {}
    shown = track(slices, "Simulating slices", console=Console(stderr=True), disable=not progress)
    for number, one in enumerate(shown):
        stop_if_asked()
        item = {"image": one, "slice": number, **names}
        try:
            with unwrapped():
                degraded = _one_slice(degradation, item, slices)
        except ValueError as error:
            raise ValueError(f"{image.meta['source']}, slice {number}: {error}") from error
        results.append(degraded["image"])
        drawn = {key: value for kept in degraded.values() if isinstance(kept, dict) for key, value in kept.items()}
    return (torch.stack(results, dim=-1) if image.ndim == 4 else results[0]), drawn


def _one_slice(degradation: Transformation, item: dict[Any, Any], slices: list[MetaTensor]) -> Mapping[Any, Any]:
    """Degrade one slice; where a CT slice shows too little tissue, its noise is taken from the others."""
    simulate = getattr(degradation, "transform", None)
    if not isinstance(simulate, SimulateCTLowDosed):
        return degradation(item)
    try:
        return degradation(item)
    except NoFlatTissueError:
        simulate.fallback = typical_noise([one.as_tensor() for one in slices], float(slices[0].pixdim[0]))
        return degradation(item)
