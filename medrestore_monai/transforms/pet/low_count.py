"""Low-count PET from full-count PET, fast, for training on the fly.

A full-count slice already has the noise of its own counts. The slice at dose reduction factor ``d`` is therefore the
slice plus noise of ``sqrt(d - 1)`` times its own, of the texture of an OSEM reconstruction, so that sharpness is never
lost. Values of an EM reconstruction are close to log-normal: never negative, with long upper tails; so is the inserted
noise, and its mean is 0 all the same. The post filter of a scanner works along the axis, too: the noise of neighboring
slices is correlated, see :mod:`~medrestore_monai.transforms.axial_noise`. Values are SUV; arrays are one slice of shape
``(1, X, Y)`` or neighboring ones, ``(1, X, Y, S)``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from medrestore_monai.transforms.axial_noise import axial_weights, white_slices
from medrestore_monai.transforms.degradation import SLAB, check_ranges, pixel_spacing, slice_distance
from medrestore_monai.transforms.pet.noise import (
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
_PET_DISTANCE = "pet_distance"  # of neighboring slices in mm, likewise
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
        axial_width: full width at half maximum in mm of the post filter along the axis, at most 100; 0 for independent
            slices.
        seed: of the noise of the whole volume.

    Raises:
        ValueError: for values outside of these ranges.
    """

    drf: float
    counts: float = COUNTS
    width: float = 5.0
    updates: float = 32.0
    smoothing: float = 0.0
    spacing: float = 0.0
    axial_width: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.drf < math.inf:
            raise ValueError(f"the dose reduction factor must be at least 1, got {self.drf}.")
        widths = (self.width, self.smoothing, self.spacing)
        if not (self.counts > 0 and self.updates >= 1 and min(widths) >= 0):
            raise ValueError(f"counts must be positive, updates at least 1, widths and spacing not negative: {self}.")
        if not 0 <= self.axial_width <= 100:
            raise ValueError(f"axial_width must be in 0..100 mm, got {self.axial_width}.")


def insert_pet_noise(
    suv: Tensor,
    noise_map: Tensor | None,
    spacing: float,
    scan: PETLowCount,
    numbers: Sequence[int] | None = None,
    distance: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Fast low-count simulation of a slice, of neighboring slices, or of a patch of them.

    Args:
        suv: full-count slice or slices in SUV, shape ``(1, X, Y[, S])``.
        noise_map: of the whole slices, cropped like the patch, shape ``(D + 1, X, Y[, S])``, see
            :func:`~medrestore_monai.transforms.pet.noise.pet_noise_map`; computed from ``suv`` if ``None``.
        spacing: pixel size in mm.
        scan: what to simulate.
        numbers: of the slices in their volume; by default from 0 on.
        distance: of neighboring slices in mm, 0 where they are independent.

    Returns:
        The low-count image, and the full-count image it belongs to: ``suv``, unless smoothed; both of the shape of
        ``suv``. Neither is negative where ``suv`` is not.

    Raises:
        ValueError: if ``suv`` is no such image, or the map or the numbers do not fit.
    """
    slices = suv.unbind(-1) if suv.ndim == 4 else (suv,)
    numbers = range(len(slices)) if numbers is None else numbers
    if len(numbers) != len(slices):
        raise ValueError(f"{len(slices)} slices need as many numbers, got {len(numbers)}.")
    for one in slices:
        check_slice(one)
    if noise_map is None:
        maps: Sequence[Tensor] = [pet_noise_map(one, spacing) for one in slices]
    else:
        maps = noise_map.unbind(-1) if suv.ndim == 4 else (noise_map,)
    size = tuple(_STEP * math.ceil((side + 2 * _MARGIN) / _STEP) for side in suv.shape[1:3])
    white = white_slices(scan.seed, numbers, (size[0], size[1]), axial_weights(scan.axial_width, distance))
    done: dict[int, tuple[Tensor, Tensor]] = {}  # slabs may hold copies
    for number, one, known, noise in zip(numbers, slices, maps, white, strict=True):
        if number not in done:
            done[number] = _insert_in_slice(one, known, spacing, scan, torch.from_numpy(noise).to(one))
    pairs = [done[number] for number in numbers]
    if suv.ndim == 3:
        return pairs[0]
    return torch.stack([low for low, _ in pairs], dim=-1), torch.stack([full for _, full in pairs], dim=-1)


def _insert_in_slice(
    suv: Tensor, noise_map: Tensor, spacing: float, scan: PETLowCount, white: Tensor
) -> tuple[Tensor, Tensor]:
    full = smoothed(suv, scan.smoothing, spacing) if scan.smoothing else suv
    if scan.drf == 1:
        return full.clone(), full
    width = math.hypot(scan.width, scan.smoothing)
    noise, std = pet_noise(white, full, noise_map.to(suv), scan.spacing or spacing, scan.updates, width)
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
    """Compute the noise map of whole slices once and keep it beside them, to be cropped together with them.

    Deterministic, so it can be cached. Writes ``noise_map_key``, see
    :func:`~medrestore_monai.transforms.pet.noise.pet_noise_map`, and ``pet_spacing`` and ``pet_distance`` (mm, of
    pixels and of slices), so that slice and map can be plain tensors from here on, which random crops and flips handle
    in half the time.

    Args:
        keys: the full-count slice or volume in SUV, one key, shape ``(1, X, Y[, Z])``.
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
            maps = [
                pet_noise_map(one, spacing, self.directions, self.background, self.attenuation).to(self.dtype)
                for one in (suv.unbind(-1) if suv.ndim == 4 else (suv,))
            ]
            values = torch.stack(maps, dim=-1) if suv.ndim == 4 else maps[0]
            out[self.noise_map_key] = MetaTensor(values, affine=getattr(out[key], "affine", None))
            out[_PET_SPACING], out[_PET_DISTANCE] = spacing, slice_distance(out[key])
        return out


class RandPETLowCountd(RandomizableTransform, MapTransform):
    """Turn full-count PET slices or patches into low-count ones, counts, filter and pixel size drawn at random.

    The drawn values go to ``data["pet_low_count"]``, the fields of :class:`PETLowCount`. Smoothing changes the
    full-count image as well: with ``label_key`` the label follows, so that image and label stay a pair.

    Args:
        keys: full-count image in SUV that becomes the low-count image, shape ``(1, X, Y)``; or neighboring slices,
            ``(1, X, Y, S)``, whose numbers the item holds where :class:`~medrestore_monai.transforms.RandSlabCropd` cut
            them out, else they count from 0.
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
        smoothing_prob: probability of that filter, which works within each slice.
        axial_width: range of the width in mm of the post filter along the axis, drawn log-uniformly; well below the
            distance of slices, these are independent.
        spacing: pixel size in mm; from the map or the image's affine by default.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: if the range is invalid.
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
        axial_width: tuple[float, float] = (1.5, 9.0),
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
            "axial_width": axial_width,
        }
        check_ranges(**self.ranges)
        if axial_width[1] > 100:
            raise ValueError(f"axial_width must not exceed 100 mm, got {axial_width}.")
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
            axial_width=drawn["axial_width"],
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
            known = float(out[_PET_DISTANCE]) if _PET_DISTANCE in out else slice_distance(image)
            distance = known if plain.ndim == 4 else 0.0  # a slice alone has no neighbors
            low_count, full = insert_pet_noise(plain, plain_map, spacing, scan, out.get(SLAB), distance)
            out[key] = convert_to_dst_type(low_count, image, dtype=torch.float32)[0]
            if self.label_key is not None:
                out[self.label_key] = convert_to_dst_type(full, out[self.label_key], dtype=torch.float32)[0]
            out["pet_low_count"] = asdict(scan)
        return out

    def _spacing(self, image: Tensor, data: Mapping[Hashable, Any]) -> float:
        if self.spacing is not None:
            return self.spacing
        return float(data[_PET_SPACING]) if _PET_SPACING in data else pixel_spacing(image)
