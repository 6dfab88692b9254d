"""Run a bundle's ``inference.json`` on one image or a thousand, and tell what came of it."""

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from medrestore_monai.saving import abandon_slabs


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
        output: a file or folder; see :func:`medrestore_monai.saving.plan_outputs`.
        config: the bundle's ``inference.json``; it is run as it is, with the weights of the bundle it lies in.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        overwrite: replace outputs that exist.
        overrides: values of the configuration, such as ``strength=0.5`` or, deeper in it, ``network_def::dim``.

    Returns:
        What was restored, in order.

    Raises:
        ValueError: the input, an option or the weights cannot be used; nothing was written for that image.
        FileExistsError: an output exists.
        OSError: an output cannot be written.
        RuntimeError: the device is not available, or memory does not suffice.
    """
    check_options(config, device, **overrides)
    overrides.setdefault("bundle_root", str(Path(config).resolve().parents[1]))
    if device != "auto":
        overrides["device"] = f"$torch.device({device!r})"
    with unwrapped():
        workflow = ConfigWorkflow(
            config_file=str(config),
            meta_file=str(Path(config).parent / "metadata.json"),
            logging_file=False,
            workflow_type="inference",
            # paths, not texts: MONAI would run a text that starts with "$" as code
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
        parser = ConfigParser()
        parser.read_config(str(config))
        unknown = sorted(name for name in overrides if re.split("#|::", name)[0] not in parser.config)
        if unknown:
            raise ValueError(f"{Path(config).name} has no option {', '.join(unknown)}.")
        parser.update(overrides)
        parser.get_parsed_content("inferer")


def root_cause(error: BaseException) -> BaseException:
    """Return the error that MONAI's transforms, configurations and engines have wrapped."""
    while error.__cause__ is not None and not isinstance(error, ValueError | OSError):
        error = error.__cause__
    return error


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise what MONAI has wrapped, and keep the logs and notes of the engines to themselves."""
    loggers = [logging.getLogger(name) for name in ("ignite", "monai", "monai.bundle.workflows")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"monai|ignite|torch")
            warnings.filterwarnings("ignore", message=".*_target_.*")
            yield
    except Exception as error:
        cause = root_cause(error)
        raise cause from cause.__cause__
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_device(device: str) -> None:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}.")
    if device != "cpu" and (torch.device(device).index or 0) >= torch.cuda.device_count():
        raise RuntimeError(f"there is no device {device} here: PyTorch finds {torch.cuda.device_count()} CUDA devices.")
