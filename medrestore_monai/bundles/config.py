"""Read a bundle's configuration."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monai.bundle import ConfigParser


def read_config(path: str | os.PathLike[str]) -> "ConfigParser":
    """Read a configuration as MONAI does.

    Args:
        path: a JSON or YAML file.
    """
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(path))
    return parser
