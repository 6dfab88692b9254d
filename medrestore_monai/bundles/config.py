"""Read a bundle's configuration, if it may run; a name of this package that has moved is refused with its new one."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrestore_monai.bundles.moved import reason_moved, texts
from medrestore_monai.bundles.trust import is_own, open_config
from medrestore_monai.files import DataError
from medrestore_monai.texts import one_line

if TYPE_CHECKING:
    from monai.bundle import ConfigParser


def read_config(*paths: str | os.PathLike[str]) -> "ConfigParser":
    """Read a configuration as MONAI does.

    Args:
        paths: JSON or YAML files, each laid over those before.

    Raises:
        UntrustedBundleError: the bundle of one is not of this package and may not run.
        ValueError: it names a class, function or module that has moved; the message has the new name.
    """
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config([str(open_config(path)) for path in paths])
    for text in texts(parser.config):
        if reason := reason_moved(text):
            names = " and ".join(Path(path).name for path in paths)
            raise ValueError(
                f"{names} {'was' if len(paths) == 1 else 'were'} written for an earlier version: {reason}."
            )
    return parser


@contextmanager
def foreign_values_explained(root: Path) -> Iterator[None]:
    """Say in one sentence what a class raises on the plain values that a bundle from elsewhere gives it.

    Args:
        root: the bundle's folder.

    Raises:
        DataError: in place of an exception that no command explains.
    """
    try:
        yield
    except (ValueError, OSError, RuntimeError, MemoryError):
        raise
    except Exception as error:
        if is_own(root):
            raise
        raise DataError(
            f"the configuration of the bundle {root} cannot be used: {one_line(str(error), 200)}."
        ) from error


def require_inference(inferer: Any) -> None:
    """End the program unless ``evaluate.json`` is laid over ``inference.json``; for the former's ``initialize``.

    Args:
        inferer: the inferer of both files together; of ``evaluate.json`` alone, it is no more than a mapping.

    Raises:
        SystemExit: with one sentence that gives the command, which MONAI passes on without a traceback.
    """
    if isinstance(inferer, Mapping):
        raise SystemExit(
            "Error: evaluate.json is laid over inference.json: python -m monai.bundle run evaluating "
            "--config_file \"['configs/inference.json','configs/evaluate.json']\" --dataset_dir DIR"
        )
