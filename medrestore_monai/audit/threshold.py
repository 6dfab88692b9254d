"""The threshold of the change map that a bundle was tuned to: ``docs/change.json``.

A network that keeps noise changes its source by less than the noise; one that takes it all away by as much, with
streaks on top. So the threshold above which a change counts as structure is the bundle's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medrestore_monai.audit.faithfulness import THRESHOLD
from medrestore_monai.bundles import Bundle
from medrestore_monai.files import DataError

FILE = "change.json"
VERSION = 1
MOST_FLAGS = 0.1  # per clean slice of the people that it is tuned on: half of what is to hold for others
_STEP = 0.25
_LEAST, _MOST = 4.0, 20.0


def choose_threshold(flags: Sequence[Mapping[float, int]]) -> float:
    """Return the least threshold with at most one flag in ten clean slices.

    Args:
        flags: of each slice, the number of flags by threshold, as :func:`thresholds` lists them.

    Raises:
        ValueError: there is no slice, or every threshold flags more.
    """
    for threshold in thresholds():
        if flags and sum(one[threshold] for one in flags) <= MOST_FLAGS * len(flags):
            return threshold
    raise ValueError(
        f"no threshold up to {_MOST:g} flags at most {MOST_FLAGS:g} regions per slice: is this the bundle?"
    )


def thresholds() -> list[float]:
    """Return those that are tried: 4, 4.25, ... 20."""
    return [_LEAST + _STEP * step for step in range(round((_MOST - _LEAST) / _STEP) + 1)]


def threshold_of(bundle: Bundle | None, modality: str, weights_sha256: str = "") -> float:
    """Return the threshold of a bundle for a modality; 5 where it has none for these weights.

    Args:
        bundle: that restored an image; ``None`` if it is unknown.
        modality: of the image.
        weights_sha256: of the weights that were used; empty for the bundle's own.

    Raises:
        DataError: the bundle's file is damaged.
    """
    path = None if bundle is None else bundle.root / "docs" / FILE
    if bundle is None or path is None or not path.is_file():
        return THRESHOLD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError
        found = content["modalities"].get(modality)
        own = weights_sha256 or bundle.metadata.get("weights_sha256", "")
        return float(found["threshold"]) if found is not None and found["weights_sha256"] == own else THRESHOLD
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"{path} has no thresholds of this version: remove it.") from None


def write_threshold(path: Path, modality: str, found: Mapping[str, Any]) -> None:
    """Write a threshold with what is known of it; other modalities in the file stay."""
    content: dict[str, Any] = {"version": VERSION, "modalities": {}}
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
    content["modalities"][modality] = dict(found)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
