"""Read a bundle's configuration; a name of this package that has moved is refused with its new one."""

import os
import re
from collections.abc import Iterator
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


def read_config(path: str | os.PathLike[str]) -> "ConfigParser":
    """Read a configuration as MONAI does.

    Args:
        path: a JSON or YAML file.

    Raises:
        ValueError: it names a class, function or module that has moved; the message has the new name.
    """
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(path))
    for text in _texts(parser.config):
        if reason := reason_moved(text):
            raise ValueError(f"{Path(path).name} was written for an earlier version: {reason}.")
    return parser


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
