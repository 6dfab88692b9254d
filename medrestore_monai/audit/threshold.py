"""The threshold of the change map that a bundle was tuned to: ``docs/change.json``.

A network that keeps noise changes its source by less than the noise; one that takes it all away by as much, with
streaks on top. So the threshold above which a change counts as structure is the bundle's own. Noise of a sharp kernel
is fine: smoothing leaves little of it, so that whatever else a network changes has a larger ``z``, and a disc has, too.
The threshold is therefore a share of the ``z`` of the least disc that is to be found, :func:`target_of`, and a fixed
value at least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medrestore_monai.audit.calibrated import damage_named, read_modalities, write_modality
from medrestore_monai.audit.faithfulness import THRESHOLD, WIDTHS, noise_spread
from medrestore_monai.audit.spectrum import Spectrum
from medrestore_monai.bundles import Bundle

FILE = "change.json"
VERSION = 2
MOST_FLAGS = 0.1  # per clean slice of the people that it is tuned on: half of what is to hold for others
LEAST = 4.0  # threshold, whatever the share
LEAST_DIAMETER, GRAINS, DEVIATIONS = 4.0, 3.0, 3.0  # mm, noise grains and noise standard deviations of the disc
_STEP, _MOST = 0.05, 1.0  # of the shares: near 1, the least disc is missed where it is weakened


def diameter_of(spectrum: Spectrum) -> float:
    """Return the diameter in mm of the least disc that is to be found: 4 mm, or three noise grains if that is more.

    A grain is half a period of the noise's mean frequency.
    """
    return max(LEAST_DIAMETER, GRAINS * 0.5 / spectrum.mean_frequency)


def target_of(spectrum: Spectrum, pixel: tuple[float, float]) -> float:
    """Return ``z`` in the center of the least disc that is to be found, of three noise standard deviations.

    Args:
        spectrum: of the source's noise.
        pixel: size in mm.
    """
    radius = diameter_of(spectrum) / 2 / float(np.mean(pixel))
    passed = [-np.expm1(-((radius / width) ** 2) / 2) / noise_spread(spectrum, width) for width in WIDTHS]
    return DEVIATIONS * float(max(passed))


def choose_share(flags: Sequence[Sequence[Mapping[float, int]]]) -> float:
    """Return the least share with at most one flag in ten clean slices of every person.

    Args:
        flags: by person, of each slice, the number of flags by share, as :func:`shares` lists them.

    Raises:
        ValueError: there is nobody, or every share flags more.
    """
    for share in shares():
        if flags and all(sum(one[share] for one in person) <= MOST_FLAGS * len(person) for person in flags):
            return share
    raise ValueError(
        f"no share up to {_MOST:g} flags at most {MOST_FLAGS:g} regions per slice of everybody: is this the bundle?"
    )


def shares() -> list[float]:
    """Return those that are tried: 0.05, 0.1, ... 1."""
    return [round(_STEP * step, 2) for step in range(1, round(_MOST / _STEP) + 1)]


def threshold_at(share: float, spectrum: Spectrum, pixel: tuple[float, float]) -> float:
    """Return the threshold for an image: a share of :func:`target_of`, and 4 at least."""
    return max(LEAST, share * target_of(spectrum, pixel))


def threshold_of(
    bundle: Bundle | None,
    modality: str,
    weights_sha256: str = "",
    spectrum: Spectrum | None = None,
    pixel: tuple[float, float] = (1.0, 1.0),
) -> float:
    """Return the threshold of a bundle for an image; 5 where it has none for these weights, or without noise.

    Args:
        bundle: that restored an image; ``None`` if it is unknown.
        modality: of the image.
        weights_sha256: of the weights that were used; empty for the bundle's own.
        spectrum: of the source's noise; ``None`` where it could not be measured.
        pixel: size in mm.

    Raises:
        DataError: the bundle's file is damaged.
    """
    path = None if bundle is None else bundle.root / "docs" / FILE
    if bundle is None or path is None or not path.is_file() or spectrum is None or not spectrum.area > 0:
        return THRESHOLD
    share = _share(path, modality, weights_sha256 or bundle.metadata.get("weights_sha256", ""))
    return THRESHOLD if share is None else threshold_at(share, spectrum, pixel)


def write_threshold(path: Path, modality: str, found: Mapping[str, Any]) -> None:
    """Write a threshold with what is known of it; other modalities in the file stay.

    Raises:
        DataError: the file is damaged, or of another version.
    """
    write_modality(path, VERSION, modality, found)


def _share(path: Path, modality: str, weights_sha256: str) -> float | None:
    """Return the share of a file for a modality, ``None`` if there is none for these weights."""
    with damage_named(path):
        found = read_modalities(path, VERSION).get(modality)
        if found is None or found["weights_sha256"] != weights_sha256:
            return None
        share = float(found["share"])
        if not 0 < share <= 1:
            raise ValueError
        return share
