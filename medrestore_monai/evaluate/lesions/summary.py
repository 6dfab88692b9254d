"""What the tables say of each kind of lesion and of lesion-free slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medrestore_monai.evaluate.lesions.inventions import Inventions
from medrestore_monai.evaluate.lesions.kinds import LesionKind
from medrestore_monai.evaluate.lesions.observer import LEAST_PAIRS, Performance, observe
from medrestore_monai.evaluate.lesions.pairs import Pair
from medrestore_monai.evaluate.lesions.recovery import recovered_size
from medrestore_monai.report.significance import bootstrap_interval


@dataclass(frozen=True)
class LesionRow:
    """One kind of lesion, restored by one method.

    Args:
        modality: of the images.
        kind: of the lesion.
        method: input, a classical method or a bundle.
        pairs: places.
        patients: that have them.
        contrast: mean part of the contrast that is left.
        low: lower end of its 95 % interval, over patients, or over slices of a single one; NaN for fewer than
            four.
        high: upper end.
        size: mean part of the diameter at half of the maximum; ``None`` where the lesion is gone.
        observer: what the observer reaches; ``None`` with fewer than 50 pairs.
    """

    modality: str
    kind: LesionKind
    method: str
    pairs: int
    patients: int
    contrast: float
    low: float
    high: float
    size: float | None
    observer: Performance | None


@dataclass(frozen=True)
class InventionRow:
    """Lesion-free slices, restored by one method.

    Args:
        modality: of the images.
        method: input, a classical method or a bundle.
        slices: that were looked at.
        bright: blobs per slice that the reference lacks.
        dark: the same, darker than the reference.
        noise: mean standard deviation of the noise of the results; of PET over the local mean; NaN if unknown.
    """

    modality: str
    method: str
    slices: int
    bright: float
    dark: float
    noise: float


def summarize_pairs(modality: str, kind: LesionKind, method: str, pairs: Sequence[Pair], seed: int = 0) -> LesionRow:
    """Return the row of one kind and method.

    Args:
        modality: of the images.
        kind: of the lesions.
        method: that restored them.
        pairs: all places.
        seed: of the interval.
    """
    patients = [pair.patient for pair in pairs]
    several = len(set(patients)) > 1
    groups = patients if several else [pair.place[:2] for pair in pairs]
    contrasts = [pair.contrast for pair in pairs]
    low, high = bootstrap_interval(contrasts, groups, seed)
    observer = None
    if len(pairs) >= LEAST_PAIRS:
        present, absent = (np.stack([getattr(pair, name) for pair in pairs]) for name in ("present", "absent"))
        observer = observe(present, absent)
    mean = float(np.mean(contrasts))
    return LesionRow(
        modality, kind, method, len(pairs), len(set(patients)), mean, low, high, _mean_size(pairs), observer
    )


def summarize_inventions(modality: str, method: str, counts: Sequence[Inventions]) -> InventionRow:
    """Return the row of one method; the arguments are its fields."""
    noise = [one.noise for one in counts if one.noise is not None]
    bright, dark = (float(np.mean([getattr(one, name) for one in counts])) for name in ("bright", "dark"))
    return InventionRow(modality, method, len(counts), bright, dark, float(np.mean(noise)) if noise else float("nan"))


def _mean_size(pairs: Sequence[Pair]) -> float | None:
    """Return the mean over grids of the size of mean differences; a single difference would be too noisy."""
    sizes, weights = [], []
    for grid in dict.fromkeys((pair.grid, pair.truth.shape) for pair in pairs):
        here = [pair for pair in pairs if (pair.grid, pair.truth.shape) == grid]
        size = recovered_size(
            *(np.mean([getattr(pair, name) for pair in here], axis=0) for name in ("difference", "truth"))
        )
        if size is not None:
            sizes.append(size)
            weights.append(len(here))
    return float(np.average(sizes, weights=weights)) if sizes else None
