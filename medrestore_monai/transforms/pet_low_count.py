"""Low-count PET from full-count PET, fast, for training on the fly.

A full-count slice already has the noise of its own counts. The slice at dose reduction factor ``d`` is therefore the
slice plus noise of ``sqrt(d - 1)`` times its own, of the texture of an OSEM reconstruction, so that sharpness is never
lost. Values of an EM reconstruction are close to log-normal: never negative, with long upper tails; so is the inserted
noise, and its mean is 0 all the same. Values are SUV; arrays are one slice of shape ``(1, X, Y)``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from medrestore_monai.transforms.degradation import pixel_spacing
from medrestore_monai.transforms.pet_noise import (
    BACKGROUND,
    COUNTS,
    WATER_511,
    check_slice,
    gaussian_gain,
    pet_noise,
    pet_noise_map,
)

__all__ = ["PETLowCount", "PETNoiseMapd", "RandPETLowCountd", "insert_pet_noise"]

_MARGIN = 8  # pixels around a patch that the Fourier filters may wrap into
_PET_SPACING = "pet_spacing"  # pixel size in mm, beside a noise map in the data
_STEP = 16  # sides of the Fourier transform are multiples of this


@dataclass(frozen=True)
class PETLowCount:
    """One drawn low-count scan; with the same values the fast simulation gives the same picture.

    Args:
        drf: dose reduction factor, at least 1; 1 for no noise.
        counts: coincidences per SUV and mm^2 of the slice at full count, as if without attenuation. More of them
            are less noise.
        width: full width at half maximum in mm of the post filter, which gives the noise its grain.
        updates: iterations times subsets of OSEM; more of them are more and finer noise.
        smoothing: full width at half maximum in mm of one more filter for slice and noise, 0 for none.
        spacing: pixel size in mm for which the noise is drawn, 0 for that of the slice.
        seed: of the noise.

    Raises:
        ValueError: for values outside of these ranges.
    """

    drf: float
    counts: float = COUNTS
    width: float = 5.0
    updates: float = 32.0
    smoothing: float = 0.0
    spacing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.drf < math.inf:
            raise ValueError(f"the dose reduction factor must be at least 1, got {self.drf}.")
        if not (self.counts > 0 and self.updates >= 1 and min(self.width, self.smoothing, self.spacing) >= 0):
            raise ValueError(f"counts must be positive, updates at least 1, widths and spacing not negative: {self}.")


def insert_pet_noise(suv: Tensor, noise_map: Tensor | None, spacing: float, scan: PETLowCount) -> tuple[Tensor, Tensor]:
    """Fast low-count simulation of a slice or of a patch of it.

    Args:
        suv: full-count slice or patch in SUV, shape ``(1, X, Y)``.
        noise_map: of the whole slice, cropped like the patch, see
            :func:`~medrestore_monai.transforms.pet_noise.pet_noise_map`; computed from ``suv`` if ``None``.
        spacing: pixel size in mm.
        scan: what to simulate.

    Returns:
        The low-count image, and the full-count image it belongs to: ``suv``, unless smoothed; both of shape
        ``(1, X, Y)``. Neither is negative where ``suv`` is not.

    Raises:
        ValueError: if ``suv`` is not one slice, or the map differs in size.
    """
    check_slice(suv)
    if noise_map is None:
        noise_map = pet_noise_map(suv, spacing)
    full = smoothed(suv, scan.smoothing, spacing) if scan.smoothing else suv
    if scan.drf == 1:
        return full.clone(), full
    size = tuple(_STEP * math.ceil((side + 2 * _MARGIN) / _STEP) for side in suv.shape[1:])
    white = np.random.RandomState(scan.seed).standard_normal(size).astype(np.float32)
    width = math.hypot(scan.width, scan.smoothing)
    noise, std = pet_noise(
        torch.from_numpy(white).to(suv), full, noise_map.to(suv), scan.spacing or spacing, scan.updates, width
    )
    strength = math.sqrt((scan.drf - 1) / scan.counts)
    log_std = torch.log1p((std * strength / full.clamp(min=1e-6)).square()).sqrt()
    factor = torch.exp(noise / std.clamp(min=1e-12) * log_std - log_std.square() / 2)
    return torch.where(full > 0, full * factor, full), full


def smoothed(suv: Tensor, width: float, spacing: float) -> Tensor:
    """Filter a slice with a Gaussian of full width at half maximum ``width`` mm; mirrored at the border."""
    margin = min(math.ceil(1.5 * width / spacing), *(side - 1 for side in suv.shape[1:]))
    padded = F.pad(suv[None], [margin] * 4, mode="reflect")[0]
    size = (padded.shape[1], padded.shape[2])
    result = torch.fft.irfft2(torch.fft.rfft2(padded) * gaussian_gain(size, width, spacing).to(suv), s=size)
    result = result[:, margin : size[0] - margin, margin : size[1] - margin]
    return torch.maximum(result, suv.min().clamp(max=0))  # rounding of the transform


class PETNoiseMapd(MapTransform):
    """Compute the noise map of a whole slice once and keep it beside it, to be cropped together with it.

    Deterministic, so it can be cached. Writes ``noise_map_key``, see
    :func:`~medrestore_monai.transforms.pet_noise.pet_noise_map`, and ``pet_spacing`` (mm), so that slice and map can be
    plain tensors from here on, which random crops and flips handle in half the time.

    Args:
        keys: the full-count slice in SUV, one key, shape ``(1, X, Y)``.
        noise_map_key: where the map goes.
        spacing: pixel size in mm; from the slice's affine by default.
        directions: number of directions of the map; 1 for isotropic noise.
        background: scatter and randoms as a part of the true coincidences, above 0.
        attenuation: of tissue, per mm; 0 for none.
        dtype: of the map.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if not exactly one key is given.
    """

    def __init__(
        self,
        keys: KeysCollection,
        noise_map_key: str = "noise_map",
        spacing: float | None = None,
        directions: int = 4,
        background: float = BACKGROUND,
        attenuation: float = WATER_511,
        dtype: torch.dtype = torch.float32,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(f"PETNoiseMapd takes one key, got {self.keys}.")
        self.noise_map_key, self.spacing, self.dtype = noise_map_key, spacing, dtype
        self.directions, self.background, self.attenuation = directions, background, attenuation

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the map added."""
        out = dict(data)
        for key in self.key_iterator(out):
            spacing = pixel_spacing(out[key]) if self.spacing is None else self.spacing
            suv = convert_to_tensor(out[key], dtype=torch.float32, track_meta=False)
            values = pet_noise_map(suv, spacing, self.directions, self.background, self.attenuation).to(self.dtype)
            out[self.noise_map_key] = MetaTensor(values, affine=getattr(out[key], "affine", None))
            out[_PET_SPACING] = spacing
        return out


class RandPETLowCountd(RandomizableTransform, MapTransform):
    """Turn full-count PET slices or patches into low-count ones, counts, filter and pixel size drawn at random.

    The drawn values go to ``data["pet_low_count"]``, the fields of :class:`PETLowCount`. Smoothing changes the
    full-count image as well: with ``label_key`` the label follows, so that image and label stay a pair.

    Args:
        keys: full-count image in SUV that becomes the low-count image, shape ``(1, X, Y)``.
        label_key: its label, the same full-count image; ``None`` if there is none.
        noise_map_key: map of :class:`PETNoiseMapd`, cropped with the image. If the data have none, it is computed from
            the image; a patch that ends in the body is then taken for a part of a body 300 mm wide.
        prob: probability of fewer counts at all.
        drf: range of the dose reduction factor, drawn log-uniformly.
        counts: range of the coincidences per SUV and mm^2 at full count, drawn log-uniformly.
        width: range of the width of the post filter in mm, drawn log-uniformly.
        updates: range of the number of OSEM updates, drawn log-uniformly.
        spacing_factor: range of the factor on the pixel size for which the noise is drawn, drawn log-uniformly.
        smoothing: range of the width in mm of the additional filter, drawn log-uniformly.
        smoothing_prob: probability of that filter.
        spacing: pixel size in mm; from the map or the image's affine by default.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: for a range that is none.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str | None = None,
        noise_map_key: str = "noise_map",
        prob: float = 1.0,
        drf: tuple[float, float] = (4.0, 12.0),
        counts: tuple[float, float] = (0.3 * COUNTS, 2 * COUNTS),
        width: tuple[float, float] = (4.0, 8.0),
        updates: tuple[float, float] = (24.0, 64.0),
        spacing_factor: tuple[float, float] = (0.8, 1.25),
        smoothing: tuple[float, float] = (3.0, 6.0),
        smoothing_prob: float = 0.2,
        spacing: float | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.ranges = {
            "drf": drf,
            "counts": counts,
            "width": width,
            "updates": updates,
            "spacing_factor": spacing_factor,
            "smoothing": smoothing,
        }
        for name, (low, high) in self.ranges.items():
            if not 0 < low <= high:
                raise ValueError(f"{name} must be a range of positive numbers, got ({low}, {high}).")
        if drf[0] < 1 or updates[0] < 1:
            raise ValueError(f"drf and updates must be at least 1, got {drf} and {updates}.")
        self.label_key, self.noise_map_key = label_key, noise_map_key
        self.smoothing_prob, self.spacing = smoothing_prob, spacing
        self._drawn: dict[str, float] = {}
        self._smooth, self._seed = False, 0

    def randomize(self, data: Any = None) -> None:
        """Draw a scan; every call draws the same count of numbers, whatever comes of them."""
        super().randomize(None)
        self._drawn = {
            name: math.exp(self.R.uniform(math.log(low), math.log(high))) for name, (low, high) in self.ranges.items()
        }
        self._smooth = bool(self.R.random_sample() < self.smoothing_prob)
        self._seed = int(self.R.randint(2**31 - 1))

    def scan(self, spacing: float) -> PETLowCount:
        """The drawn scan of an image with pixels of ``spacing`` mm."""
        drawn = self._drawn
        return PETLowCount(
            drf=drawn["drf"],
            counts=drawn["counts"],
            width=drawn["width"],
            updates=drawn["updates"],
            smoothing=drawn["smoothing"] if self._smooth else 0.0,
            spacing=drawn["spacing_factor"] * spacing,
            seed=self._seed,
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images at low count, and the drawn values under ``pet_low_count``."""
        out = dict(data)
        self.randomize(None)
        if not self._do_transform:
            out["pet_low_count"] = asdict(PETLowCount(drf=1.0, seed=self._seed))
            return out
        for key in self.key_iterator(out):
            image, noise_map = out[key], out.get(self.noise_map_key)
            spacing = self._spacing(image, out)
            scan = self.scan(spacing)
            plain = convert_to_tensor(image, dtype=torch.float32, track_meta=False)
            plain_map = (
                None if noise_map is None else convert_to_tensor(noise_map, dtype=torch.float32, track_meta=False)
            )
            low_count, full = insert_pet_noise(plain, plain_map, spacing, scan)
            out[key] = convert_to_dst_type(low_count, image, dtype=torch.float32)[0]
            if self.label_key is not None:
                out[self.label_key] = convert_to_dst_type(full, out[self.label_key], dtype=torch.float32)[0]
            out["pet_low_count"] = asdict(scan)
        return out

    def _spacing(self, image: Tensor, data: Mapping[Hashable, Any]) -> float:
        if self.spacing is not None:
            return self.spacing
        return float(data[_PET_SPACING]) if _PET_SPACING in data else pixel_spacing(image)
