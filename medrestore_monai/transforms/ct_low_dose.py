"""Low-dose CT from routine-dose CT: an exact simulation, and a fast one for training on the fly.

A routine-dose slice already has the noise of its own dose. Both ways therefore *insert* noise: the slice of dose
fraction ``d`` is the slice plus noise of ``sqrt(1 / d - 1)`` times its own quantum noise, of the same texture, so that
sharpness is never lost. Values are HU; arrays are one slice of shape ``(1, X, Y)``.
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
from torch import Tensor

from medrestore_monai.transforms.ct_noise import (
    CTNoise,
    NoFlatTissueError,
    ct_noise_map,
    estimate_ct_noise,
    noise_spectrum,
    shape_noise,
)
from medrestore_monai.transforms.degradation import pixel_spacing

__all__ = ["CTLowDose", "CTNoiseMapd", "RandCTLowDosed", "insert_ct_noise", "rekernel"]

_MARGIN = 8  # pixels around a patch that the Fourier filters may wrap into
_CT_NOISE = "ct_noise"  # what the texture of a noise map is, beside it in the data
_MOST_GAIN = 3.0  # how far a filter to a sharper kernel may amplify


@dataclass(frozen=True)
class CTLowDose:
    """One drawn low-dose scan; with the same values the fast simulation gives the same picture.

    Args:
        dose: dose as a fraction of the slice's own, in (0, 1].
        level: factor on the inserted noise, for what the noise estimate does not know (electronic noise, errors).
        thinning: the slice is first made noisier, as if it were this many times thinner; 1 for not.
        cutoff: kernel to which slice and noise are filtered, in cycles/mm; 0 to keep the slice's own.
        seed: of the noise.

    Raises:
        ValueError: for values outside of these ranges.
    """

    dose: float
    level: float = 1.0
    thinning: float = 1.0
    cutoff: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.dose <= 1:
            raise ValueError(f"dose must be a fraction in (0, 1], got {self.dose}.")
        if self.level < 0 or self.thinning < 1 or self.cutoff < 0:
            raise ValueError(f"level and cutoff must not be negative, thinning at least 1, got {self}.")


def rekernel(size: tuple[int, int], source: float, target: float, spacing: float) -> Tensor:
    """Filter that turns an image of kernel ``source`` into one of kernel ``target``, for ``torch.fft.rfft2``.

    Args:
        size: image size ``(X, Y)``.
        source: cutoff of the image's kernel in cycles/mm.
        target: cutoff of the wanted kernel in cycles/mm.
        spacing: pixel size in mm.

    Returns:
        Gain, 1 at frequency 0 and at most 3, shape ``(X, Y // 2 + 1)``.
    """
    fx, fy = torch.fft.fftfreq(size[0], d=spacing)[:, None], torch.fft.rfftfreq(size[1], d=spacing)[None, :]
    square = fx * fx + fy * fy
    return torch.exp(square * (1 / source**2 - 1 / target**2)).clamp(max=_MOST_GAIN)


def insert_ct_noise(
    hu: Tensor, noise_map: Tensor, cutoff: float, spacing: float, scan: CTLowDose, lower: float | None = -1024.0
) -> tuple[Tensor, Tensor]:
    """Fast low-dose simulation of a slice or of a patch of it.

    Args:
        hu: routine-dose slice or patch in HU, shape ``(1, X, Y)``; at least 9 pixels wide.
        noise_map: standard deviation in HU of the noise it has, per direction, shape ``(D, X, Y)``.
        cutoff: sharpness of its kernel in cycles/mm.
        spacing: pixel size in mm.
        scan: what to simulate.
        lower: least value a scanner stores, in HU; smaller results are set to it unless ``hu`` is smaller itself.
            ``None`` for no bound.

    Returns:
        The low-dose image, and the routine-dose image it belongs to: ``hu`` unless thinned or filtered to another
        kernel; both of shape ``(1, X, Y)``.

    Raises:
        ValueError: if map and image differ in size.
    """
    if hu.ndim != 3 or noise_map.shape[1:] != hu.shape[1:]:
        raise ValueError(f"noise map {tuple(noise_map.shape)} and image {tuple(hu.shape)} differ in size.")
    size = (hu.shape[1] + 2 * _MARGIN, hu.shape[2] + 2 * _MARGIN)
    random = np.random.RandomState(scan.seed)
    target = scan.cutoff or cutoff
    spectrum = noise_spectrum(size, target, spacing, reference=cutoff)
    routine = hu
    own_power = torch.zeros_like(spectrum)  # of the noise that the routine-dose image needs on top
    if target != cutoff:
        gain = rekernel(size, cutoff, target, spacing)
        padded = F.pad(hu[None], [_MARGIN] * 4, mode="reflect")[0]
        filtered = torch.fft.irfft2(torch.fft.rfft2(padded) * gain, s=size)
        routine = filtered[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
        # what the softer kernel took away for good: the noise of the sharper one is made whole again
        own_power = spectrum.square() - (gain * noise_spectrum(size, cutoff, spacing)).square()
    own_power = own_power.clamp(min=0) + (scan.thinning - 1) * spectrum.square()

    def noise(amplitude: Tensor) -> Tensor:
        white = torch.from_numpy(random.standard_normal(size).astype(np.float32))
        return shape_noise(white, noise_map, amplitude)

    if target > cutoff or scan.thinning > 1:
        routine = routine + noise(own_power.sqrt())
    strength = scan.level * math.sqrt(scan.thinning * (1 / scan.dose - 1))
    low_dose = routine + strength * noise(spectrum)
    if lower is not None:
        least = hu.clamp(max=lower)
        low_dose, routine = torch.maximum(low_dose, least), torch.maximum(routine, least)
    return low_dose, routine


class CTNoiseMapd(MapTransform):
    """Measure the noise of a whole slice once and keep it as a map beside it, to be cropped together with it.

    Deterministic, so it can be cached. Writes ``noise_map_key``: standard deviation in HU per direction, shape
    ``(directions, X, Y)``, a ``MetaTensor`` whose meta data hold ``ct_noise_cutoff`` (cycles/mm), ``ct_noise_std``
    (HU, median in soft tissue) and ``ct_noise_spacing`` (mm). Cutoff and spacing also go to ``ct_noise``, so
    that the map can be a plain tensor from here on, which random crops and flips handle in half the time.

    Args:
        keys: the routine-dose slice in HU, one key, shape ``(1, X, Y)``.
        noise_map_key: where the map goes.
        spacing: pixel size in mm; from the slice's affine by default.
        directions: number of directions of the map; 1 for isotropic noise.
        dtype: of the map; ``torch.float16`` halves the memory of a cache.
        fallback: noise assumed for a slice with too little soft tissue to measure it, such as one of the lung's apex;
            ``None`` to refuse such a slice.
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
        dtype: torch.dtype = torch.float32,
        fallback: CTNoise | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(f"CTNoiseMapd takes one key, got {self.keys}.")
        self.noise_map_key, self.spacing, self.directions, self.dtype = noise_map_key, spacing, directions, dtype
        self.fallback = fallback

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the map added."""
        out = dict(data)
        for key in self.key_iterator(out):
            noise_map = self._measure(out[key])
            out[self.noise_map_key] = noise_map
            out[_CT_NOISE] = {name: noise_map.meta[f"ct_noise_{name}"] for name in ("cutoff", "spacing")}
        return out

    def _measure(self, image: Tensor) -> MetaTensor:
        spacing = pixel_spacing(image) if self.spacing is None else self.spacing
        hu = torch.as_tensor(image, dtype=torch.float32)
        hu = hu.as_tensor() if isinstance(hu, MetaTensor) else hu
        relative = ct_noise_map(hu, spacing, self.directions)
        try:
            noise = estimate_ct_noise(hu, spacing, relative)
        except NoFlatTissueError:
            if self.fallback is None:
                raise
            noise = self.fallback
        noise_map = MetaTensor((relative * noise.scale).to(self.dtype), affine=getattr(image, "affine", None))
        noise_map.meta.update(
            ct_noise_cutoff=noise.cutoff, ct_noise_std=noise.std, ct_noise_scale=noise.scale, ct_noise_spacing=spacing
        )
        return noise_map


class RandCTLowDosed(RandomizableTransform, MapTransform):
    """Turn routine-dose CT slices or patches into low-dose ones, dose, kernel and noise level drawn at random.

    The drawn values go to ``data["ct_low_dose"]``, the fields of :class:`CTLowDose`. Other kernels and thinner slices
    change the routine-dose image as well: with ``label_key`` the label follows, so that image and label stay a pair.

    Args:
        keys: routine-dose image in HU that becomes the low-dose image, shape ``(1, X, Y)``.
        label_key: its label, the same routine-dose image; ``None`` if there is none.
        noise_map_key: map of :class:`CTNoiseMapd`, cropped with the image. If the data have none, it is measured on the
            image, which must then be a whole slice.
        prob: probability of a lower dose at all.
        dose: range of the dose fraction, drawn log-uniformly.
        level: range of the factor on the noise level; real quarter-dose pairs ask for 0.9..1.25.
        cutoff: range of the kernel, in cycles/mm, drawn log-uniformly; 0.41 is like B30f, 1.2 to 3.0 like D45f.
        kernel_prob: probability of a change of kernel.
        thinning: range of the factor by which the slice is made thinner, and its noise variance greater.
        thinning_prob: probability of thinning.
        lower: least value a scanner stores, in HU; ``None`` for no bound.
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
        dose: tuple[float, float] = (0.1, 0.5),
        level: tuple[float, float] = (0.9, 1.25),
        cutoff: tuple[float, float] = (0.36, 2.0),
        kernel_prob: float = 0.5,
        thinning: tuple[float, float] = (1.0, 4.0),
        thinning_prob: float = 0.2,
        lower: float | None = -1024.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        for name, (low, high) in {"dose": dose, "level": level, "cutoff": cutoff, "thinning": thinning}.items():
            if not 0 < low <= high:
                raise ValueError(f"{name} must be a range of positive numbers, got ({low}, {high}).")
        if dose[1] > 1 or thinning[0] < 1:
            raise ValueError(f"dose must not exceed 1 and thinning not be below 1, got {dose} and {thinning}.")
        self.label_key, self.noise_map_key, self.lower = label_key, noise_map_key, lower
        self.dose, self.level, self.cutoff, self.thinning = dose, level, cutoff, thinning
        self.kernel_prob, self.thinning_prob = kernel_prob, thinning_prob
        self.scan = CTLowDose(dose=1.0)

    def randomize(self, data: Any = None) -> None:
        """Draw a scan; every call draws the same count of numbers, whatever comes of them."""
        super().randomize(None)
        dose, level, cutoff, thinning = (
            math.exp(self.R.uniform(math.log(low), math.log(high)))
            for low, high in (self.dose, self.level, self.cutoff, self.thinning)
        )
        other_kernel, thinner = self.R.random_sample(2) < (self.kernel_prob, self.thinning_prob)
        self.scan = CTLowDose(
            dose=dose,
            level=level,
            thinning=thinning if thinner else 1.0,
            cutoff=cutoff if other_kernel else 0.0,
            seed=int(self.R.randint(2**31 - 1)),
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images at low dose, and the drawn values under ``ct_low_dose``."""
        out = dict(data)
        self.randomize(None)
        if not self._do_transform:
            out["ct_low_dose"] = asdict(CTLowDose(dose=1.0, seed=self.scan.seed))
            return out
        for key in self.key_iterator(out):
            image = out[key]
            known = out if self.noise_map_key in out else CTNoiseMapd(key, self.noise_map_key)({key: image})
            noise = known[_CT_NOISE]
            low_dose, routine = insert_ct_noise(
                _plain(image),
                _plain(known[self.noise_map_key]),
                float(noise["cutoff"]),
                float(noise["spacing"]),
                self.scan,
                self.lower,
            )
            out[key] = _like(low_dose, image)
            if self.label_key is not None:
                out[self.label_key] = _like(routine, out[self.label_key])
        out["ct_low_dose"] = asdict(self.scan)
        return out


def _plain(image: Tensor) -> Tensor:
    """The values as a plain float32 tensor."""
    plain = image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image)
    return plain.float()


def _like(values: Tensor, image: Tensor) -> Tensor:
    """``values`` with a copy of the meta data of ``image``."""
    return MetaTensor(values).copy_meta_from(image) if isinstance(image, MetaTensor) else values
