"""The noise that the slices of a PET scan have: measured, checked against the scan, and drawn anew.

Place and direction come from the activity (:func:`~medrestore_monai.transforms.pet.noise.pet_noise_map`); grain, level
and the correlation of slices from flat regions of the body, relative to the local mean. Drawn noise is log-normal about
the noisy value, so that a bright voxel draws too much noise: 2 % too much at 30 % of relative noise, 9 % at 50 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from medrestore_monai.adapt.noise_check import LevelCheck, check_level, gaussian_band, robust_ratio, spread
from medrestore_monai.adapt.slice_correlation import axial_width_of
from medrestore_monai.audit.regions import body_mask, flat_mask, smoothed
from medrestore_monai.audit.volume import chosen_slices
from medrestore_monai.transforms.ct.noise import NoFlatTissueError
from medrestore_monai.transforms.pet.low_count import PETLowCount, insert_pet_noise
from medrestore_monai.transforms.pet.noise import pet_noise, pet_noise_map

LOCAL_MEAN = 6.0  # mm, standard deviation
LEAST_SUV = 0.2  # of the local mean, below which a voxel has no relative noise worth measuring
_WIDTHS = (3.0, 4.0, 5.0, 6.0, 7.0, 8.5, 10.0)  # mm, full widths at half maximum that are tried
_MOST_SLICES = 8  # that the grain is measured in
_LEAST_FLAT = 512  # voxels in all
_DEPTH = 4  # slices of a block of the check
_OTHER_WIDTH = 1.15
_COARSE = (1.2, 2.4)  # pixels, of the second band


@dataclass(frozen=True, eq=False)
class PETNoiseModel:
    """Noise of a PET volume, of which one draws.

    Args:
        volume: that has the noise, in SUV, shape ``(1, X, Y, Z)``.
        maps: of :func:`~medrestore_monai.transforms.pet.noise.pet_noise_map`, shape ``(D + 1, X, Y, Z)``.
        spacing: of pixels and slices in mm.
        counts: coincidences per SUV and mm^2 of a slice; more of them are less noise.
        width: full width at half maximum in mm of the grain within a slice.
        axial_width: and along the axis.
        check: how drawn noise compares with that of the volume.
    """

    volume: Tensor
    maps: Tensor
    spacing: tuple[float, float, float]
    counts: float = 200.0
    width: float = 5.0
    axial_width: float = 0.0
    check: LevelCheck | None = None

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation in SUV, shape ``(1, X, Y, Z)``."""
        white = torch.zeros(self.volume.shape[1], self.volume.shape[2])
        updates = PETLowCount(2.0).updates
        pairs = zip(self.volume.unbind(-1), self.maps.unbind(-1), strict=True)
        slices = [pet_noise(white, one, known, self.spacing[0], updates, self.width)[1] for one, known in pairs]
        return torch.stack(slices, dim=-1) / math.sqrt(self.counts)

    def draw(self, generator: torch.Generator | None = None, numbers: Sequence[int] | None = None) -> Tensor:
        """Draw noise in SUV, shape ``(1, X, Y, Z)``; with it the volume is not negative where it was not before.

        Args:
            generator: of the seed.
            numbers: of the slices in their volume, ``Z`` of them; equal ones get equal noise. From 0 on by default.
        """
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        # half the dose inserts noise of the variance that is there
        scan = PETLowCount(2.0, self.counts, self.width, axial_width=self.axial_width, seed=seed)
        noisier, _ = insert_pet_noise(self.volume, self.maps, self.spacing[0], scan, numbers, self.spacing[2])
        return noisier - self.volume

    def cropped(self, place: Sequence[slice]) -> PETNoiseModel:
        """Return the noise of a part of the volume, ``place`` along X, Y and Z."""
        index = (slice(None), *place)
        return replace(self, volume=self.volume[index], maps=self.maps[index])

    def scaled(self, factor: float) -> PETNoiseModel:
        """Return noise of ``factor`` times the standard deviation."""
        return replace(self, counts=self.counts / factor**2)

    def of_family(self) -> PETNoiseModel:
        """Return noise of a grain 15 % wider and of the same standard deviation: a second, plausible spectrum."""
        wider = replace(self, width=self.width * _OTHER_WIDTH)
        return wider.scaled(float(self.std.mean() / wider.std.mean()))

    @property
    def relative(self) -> float:
        """Median relative standard deviation where the local mean is above 0.2 SUV; NaN if it is nowhere."""
        mean = torch.from_numpy(smoothed(self.volume[0].numpy(), self.spacing[:2], LOCAL_MEAN))
        at = mean > LEAST_SUV
        return float((self.std[0][at] / mean[at]).median()) if bool(at.any()) else float("nan")


def measure_pet_noise(volume: Tensor, spacing: Sequence[float]) -> PETNoiseModel:
    """Measure the noise of a PET volume.

    Args:
        volume: in SUV, shape ``(1, X, Y, Z)``.
        spacing: of pixels and slices in mm, three numbers.

    Returns:
        The noise, with the check of its level in ``check``, which may have failed.

    Raises:
        NoFlatTissueError: the body has too few flat voxels.
    """
    x, y, z = (float(step) for step in spacing)
    maps = torch.stack([pet_noise_map(one, x) for one in volume.unbind(-1)], dim=-1)
    model = PETNoiseModel(volume, maps, (x, y, z), axial_width=axial_width_of(volume, (x, y, z), "PT"))
    mean, flat = flat_body(volume[0].numpy(), (x, y))
    if flat.sum() < _LEAST_FLAT:
        raise NoFlatTissueError(
            f"too few flat voxels of the body ({int(flat.sum())}) to measure the noise of this PET."
        )
    model = replace(model, width=_fitted_width(model, mean, flat))
    image = volume[0].numpy() / np.maximum(mean, LEAST_SUV)
    ratios = robust_ratio(image, _relative_draws(model, mean), flat)
    middle = float(np.median(ratios))
    model = model.scaled(middle)
    drawn = _relative_draws(model, mean)
    return replace(model, check=check_level(image, drawn, flat, (x, y), ratios / middle, _DEPTH))


def flat_body(suv: np.ndarray, pixel: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the local mean of a PET volume ``(X, Y, Z)`` in SUV, and a mask of the flat part of the body."""
    mean = smoothed(suv, pixel, LOCAL_MEAN)
    smooth = smoothed(suv, pixel)
    return mean, flat_mask(smooth, body_mask(smooth, "PT") & (mean > LEAST_SUV), pixel)


def _fitted_width(model: PETNoiseModel, mean: np.ndarray, flat: np.ndarray) -> float:
    """Return the width whose noise has the ratio of coarse to fine spread that the volume has."""
    chosen = chosen_slices(flat.shape[2], _MOST_SLICES)
    some = replace(model, volume=model.volume[..., chosen], maps=model.maps[..., chosen], axial_width=0.0)
    mean, flat = mean[..., chosen], flat[..., chosen]
    if not flat.any():
        return model.width
    wanted = _grain(some.volume[0].numpy() / np.maximum(mean, LEAST_SUV), flat)
    found = [_grain(_relative_draws(replace(some, width=width), mean, 1)[0], flat) for width in _WIDTHS]
    return float(np.interp(wanted, np.maximum.accumulate(found), _WIDTHS))


def _grain(relative: np.ndarray, flat: np.ndarray) -> float:
    fine, coarse = (spread(gaussian_band(relative, widths)[flat]) for widths in ((0.6, 1.2), _COARSE))
    return coarse / max(fine, 1e-9)


def _relative_draws(model: PETNoiseModel, mean: np.ndarray, count: int = 2) -> list[np.ndarray]:
    """Draw noise relative to the local mean, less its own: the volume is divided by a mean that follows the noise."""
    generator = torch.Generator().manual_seed(0)
    drawn = [model.draw(generator)[0].numpy() for _ in range(count)]
    local = np.maximum(mean, LEAST_SUV)
    return [(one - smoothed(one, model.spacing[:2], LOCAL_MEAN)) / local for one in drawn]
