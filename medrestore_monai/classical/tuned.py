"""Parameters of the classical methods as a function of the noise level, and the file in which bundles ship them.

``tuned.json``, version 1::

    {
      "version": 1,
      "modalities": {
        "PT": {
          "task": "synthesis",
          "noise_levels": [0.004, 0.009],
          "baselines": {
            "gaussian_3d": {"sigma_mm": [2.1, 4.0]},
            "non_local_means": {"h": 0.02}
          }
        }
      }
    }

``noise_levels`` ascend; each is one of :func:`~medrestore_monai.classical.noise_level`. A parameter has a value for
each of them, or one for all. What else is there, such as what was tuned on and the scores, is for readers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medrestore_monai.classical.methods import KNOWN, Classical, parameters_of

VERSION = 1


@dataclass(frozen=True)
class Parameters:
    """The parameters of one method as a function of the noise level.

    Args:
        levels: where the values hold, ascending; one for parameters that do not depend on the level.
        values: by name of the parameter, one for each level, positive.

    Raises:
        ValueError: levels do not ascend or are not positive, or the counts differ.
    """

    levels: tuple[float, ...]
    values: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        if not self.levels or any(not _is_positive(level) for level in self.levels):
            raise ValueError(f"noise levels must be numbers above 0, got {list(self.levels)}.")
        if any(a >= b for a, b in zip(self.levels, self.levels[1:], strict=False)):
            raise ValueError(f"noise levels must ascend, got {list(self.levels)}.")
        for name, values in self.values.items():
            if len(values) != len(self.levels):
                raise ValueError(f"{name} has {len(values)} values for {len(self.levels)} noise levels.")
            if any(not _is_positive(value) for value in values):
                raise ValueError(f"{name} must be numbers above 0, got {list(values)}.")

    def at(self, level: float) -> dict[str, float]:
        """Return the parameters for one noise level.

        Between two levels the logarithm of a parameter is linear in that of the level; beyond the first and the last
        one their values hold.
        """
        return {
            name: float(np.exp(np.interp(math.log(level), np.log(self.levels), np.log(values))))
            if len(set(values)) > 1
            else float(values[0])
            for name, values in self.values.items()
        }

    @property
    def depends_on_level(self) -> bool:
        """Whether any parameter has different values."""
        return any(len(set(values)) > 1 for values in self.values.values())

    def described(self) -> dict[str, Any]:
        """Return the values for a report: numbers, or lists of them beside the noise levels."""
        if not self.depends_on_level:
            return self.at(1.0)
        listed = {name: list(values) for name, values in self.values.items()}
        return {"noise levels": list(self.levels), **listed}


def constant(values: Mapping[str, float]) -> Parameters:
    """Return parameters that do not depend on the noise level."""
    return Parameters((1.0,), {name: (float(value),) for name, value in values.items()})


def read_tuned(path: Path) -> dict[str, dict[str, Parameters]]:
    """Read a ``tuned.json``.

    Args:
        path: the file.

    Returns:
        The parameters by modality and method.

    Raises:
        ValueError: it cannot be read as such; the message says why.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("version") != VERSION:
            raise ValueError(f"version {VERSION} is expected, got {content.get('version')!r}")
        return {
            modality: {
                method: _checked(method, values, part.get("noise_levels", [1.0]))
                for method, values in part["baselines"].items()
            }
            for modality, part in content["modalities"].items()
        }
    except (OSError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise ValueError(f"{path} is no file of tuned baselines: {reason}.") from error


def _checked(method: str, values: Mapping[str, Any], levels: Sequence[float]) -> Parameters:
    lists = {name: value if isinstance(value, list) else [value] * len(levels) for name, value in values.items()}
    parameters = Parameters(tuple(levels), {name: tuple(value) for name, value in lists.items()})
    known = {name: 1.0 for name in parameters_of(method) if name in KNOWN}
    Classical(method, {**known, **parameters.at(levels[0])})
    return parameters


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
