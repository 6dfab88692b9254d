"""Read a bundle's configuration; a name of this package that has moved is refused with its new one."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

_TRANSFORMS = (
    "ct_low_dose ct_mean ct_noise ct_noise_measure ct_scan pet_activity pet_fixed pet_low_count pet_noise pet_scan"
)
# modules that earlier configurations name, and where their classes and functions are now
MOVED = {
    **{f"medrestore_monai.{name}": "medrestore_monai.data" for name in ("layouts", "loading", "saving")},
    **{f"medrestore_monai.transforms.{name}": "medrestore_monai.transforms" for name in _TRANSFORMS.split()},
}
_OLD_NAME = re.compile(rf"\b({'|'.join(map(re.escape, MOVED))})\b((?:\.\w+)*)")


def read_config(*paths: str | os.PathLike[str]) -> "ConfigParser":
    """Read a configuration as MONAI does.

    Args:
        paths: JSON or YAML files, each laid over those before.

    Raises:
        ValueError: it names a class, function or module that has moved; the message has the new name.
    """
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config([str(path) for path in paths])
    for text in _texts(parser.config):
        if reason := reason_moved(text):
            names = " and ".join(Path(path).name for path in paths)
            raise ValueError(
                f"{names} {'was' if len(paths) == 1 else 'were'} written for an earlier version: {reason}."
            )
    return parser


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


def reason_moved(text: str) -> str:
    """Say where the first class, function or module of a text is now that has moved; empty if none has.

    Args:
        text: of a configuration, such as a ``_target_`` or an expression.
    """
    found = _OLD_NAME.search(text)
    if found is None:
        return ""
    name = found[2].rpartition(".")[2]
    return f"{found[0]} is now {MOVED[found[1]]}{'.' * bool(name)}{name}"


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for child in content.values() if isinstance(content, dict) else content:
            yield from _texts(child)
