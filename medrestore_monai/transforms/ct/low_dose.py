"""Low-dose CT from routine-dose CT: an exact simulation, and a fast one for training on the fly.

A routine-dose slice already has the noise of its own dose. Both ways therefore *insert* noise: the slice of dose
fraction ``d`` is the slice plus noise of ``sqrt(1 / d - 1)`` times its own quantum noise, of the same texture, so that
sharpness is never lost. Spiral CT interpolates along the axis, so the noise of neighboring slices is correlated, see
:mod:`~medrestore_monai.transforms.axial_noise`. Values are HU; arrays are one slice of shape ``(1, X, Y)`` or
neighboring ones, ``(1, X, Y, S)``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor
from torch import Tensor

from medrestore_monai.transforms.axial_noise import axial_weights, axial_width, white_slices
from medrestore_monai.transforms.ct.noise import noise_spectrum, shape_noise
from medrestore_monai.transforms.ct.noise_measure import CT_NOISE, CTNoiseMapd
from medrestore_monai.transforms.degradation import SLAB, check_ranges, like, range_of

__all__ = ["CTLowDose", "CTNoiseMapd", "RandCTLowDosed", "insert_ct_noise", "rekernel"]

_MARGIN = 8  # pixels around a patch that the Fourier filters may wrap into
_MOST_GAIN = 3.0  # how far a filter to a sharper kernel may amplify


@dataclass(frozen=True)
class CTLowDose:
    """One drawn low-dose scan; with the same values the fast simulation gives the same picture.

    Args:
        dose: dose as a fraction of the slice's own, in (0, 1].
        level: factor on the inserted noise, for what the noise estimate does not know (electronic noise, errors).
        thinning: the slice is first made noisier, as if it were this many times thinner; 1 for not.
        cutoff: kernel to which slice and noise are filtered, in cycles/mm; 0 to keep the slice's own.
        axial_correlation: of the noise of neighboring slices, in [0, 0.95], whatever their distance: measured scans
            of 0.8 to 4.25 mm have 0.3 to 0.5; 0 for independent slices.
        seed: of the noise of the whole volume.

    Raises:
        ValueError: for values outside of these ranges.
    """

    dose: float
    level: float = 1.0
    thinning: float = 1.0
    cutoff: float = 0.0
    axial_correlation: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.dose <= 1:
            raise ValueError(f"dose must be a fraction in (0, 1], got {self.dose}.")
        if self.level < 0 or self.thinning < 1 or self.cutoff < 0:
            raise ValueError(f"level and cutoff must not be negative, thinning at least 1, got {self}.")
        if not 0 <= self.axial_correlation <= 0.95:
            raise ValueError(f"axial_correlation must be in 0..0.95, got {self.axial_correlation}.")


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
    hu: Tensor,
    noise_map: Tensor,
    cutoff: float,
    spacing: float,
    scan: CTLowDose,
    lower: float | None = -1024.0,
    numbers: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Fast low-dose simulation of a slice, of neighboring slices, or of a patch of them.

    Args:
        hu: routine-dose slice, slices or patch in HU, shape ``(1, X, Y[, S])``; at least 9 pixels wide.
        noise_map: standard deviation in HU of the noise it has, per direction, shape ``(D, X, Y[, S])``.
        cutoff: sharpness of its kernel in cycles/mm.
        spacing: pixel size in mm.
        scan: what to simulate.
        lower: least value a scanner stores, in HU; smaller results are set to it unless ``hu`` is smaller itself.
            ``None`` for no bound.
        numbers: of the slices in their volume; by default from 0 on. Copies of a slice have the same number.

    Returns:
        The low-dose image, and the routine-dose image it belongs to: ``hu`` unless thinned or filtered to another
        kernel; both of the shape of ``hu``.

    Raises:
        ValueError: if map and image differ in size, or the numbers do not fit.
    """
    if hu.ndim not in (3, 4) or noise_map.shape[1:] != hu.shape[1:]:
        raise ValueError(f"noise map {tuple(noise_map.shape)} and image {tuple(hu.shape)} differ in size.")
    slices, maps = (hu.unbind(-1), noise_map.unbind(-1)) if hu.ndim == 4 else ((hu,), (noise_map,))
    numbers = range(len(slices)) if numbers is None else numbers
    if len(numbers) != len(slices):
        raise ValueError(f"{len(slices)} slices need as many numbers, got {len(numbers)}.")
    size = (hu.shape[1] + 2 * _MARGIN, hu.shape[2] + 2 * _MARGIN)
    weights = axial_weights(axial_width(scan.axial_correlation, 1.0), 1.0)
    inserted = white_slices(scan.seed, numbers, size, weights)
    own = inserted  # not looked at where the routine-dose image needs no noise on top
    if (scan.cutoff or cutoff) > cutoff or scan.thinning > 1:
        own = white_slices(zlib.crc32(f"{scan.seed}/own".encode()), numbers, size, weights)
    done: dict[int, tuple[Tensor, Tensor]] = {}
    for number, one, known, *white in zip(numbers, slices, maps, own, inserted, strict=True):
        if number not in done:
            fields = (torch.from_numpy(white[0]), torch.from_numpy(white[1]))
            done[number] = _insert_in_slice(one, known, cutoff, spacing, scan, lower, fields)
    pairs = [done[number] for number in numbers]
    if hu.ndim == 3:
        return pairs[0]
    return torch.stack([low for low, _ in pairs], dim=-1), torch.stack([routine for _, routine in pairs], dim=-1)


def _insert_in_slice(
    hu: Tensor,
    noise_map: Tensor,
    cutoff: float,
    spacing: float,
    scan: CTLowDose,
    lower: float | None,
    white: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Simulate one slice; ``white`` is for its own noise and for what is inserted."""
    size = (hu.shape[1] + 2 * _MARGIN, hu.shape[2] + 2 * _MARGIN)
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
    if target > cutoff or scan.thinning > 1:
        routine = routine + shape_noise(white[0], noise_map, own_power.sqrt())
    strength = scan.level * math.sqrt(scan.thinning * (1 / scan.dose - 1))
    low_dose = routine + strength * shape_noise(white[1], noise_map, spectrum)
    if lower is not None:
        least = hu.clamp(max=lower)
        low_dose, routine = torch.maximum(low_dose, least), torch.maximum(routine, least)
    return low_dose, routine


class RandCTLowDosed(RandomizableTransform, MapTransform):
    """Turn routine-dose CT slices or patches into low-dose ones, dose, kernel and noise level drawn at random.

    The drawn values go to ``data["ct_low_dose"]``, the fields of :class:`CTLowDose`. Other kernels and thinner slices
    change the routine-dose image as well: with ``label_key`` the label follows, so that image and label stay a pair.

    Args:
        keys: routine-dose image in HU that becomes the low-dose image, shape ``(1, X, Y)``; or neighboring slices,
            ``(1, X, Y, S)``, whose numbers the item holds where :class:`~medrestore_monai.transforms.RandSlabCropd` cut
            them out, else they count from 0.
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
        axial_correlation: range of the correlation of the noise of neighboring slices, within [0, 0.95]; a slice alone
            has no neighbors, and 0.
        lower: least value a scanner stores, in HU; ``None`` for no bound.
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
        dose: tuple[float, float] = (0.1, 0.5),
        level: tuple[float, float] = (0.9, 1.25),
        cutoff: tuple[float, float] = (0.36, 2.0),
        kernel_prob: float = 0.5,
        thinning: tuple[float, float] = (1.0, 4.0),
        thinning_prob: float = 0.2,
        axial_correlation: tuple[float, float] = (0.15, 0.55),
        lower: float | None = -1024.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        check_ranges(dose=dose, level=level, cutoff=cutoff, thinning=thinning)
        if dose[1] > 1 or thinning[0] < 1:
            raise ValueError(f"dose must not exceed 1 and thinning not be below 1, got {dose} and {thinning}.")
        self.label_key, self.noise_map_key, self.lower = label_key, noise_map_key, lower
        self.dose, self.level, self.cutoff, self.thinning = dose, level, cutoff, thinning
        self.kernel_prob, self.thinning_prob = kernel_prob, thinning_prob
        self.axial_correlation = range_of("axial_correlation", axial_correlation, 0.0, 0.95)
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
            axial_correlation=self.R.uniform(*self.axial_correlation),
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images at low dose, and the drawn values under ``ct_low_dose``."""
        out = dict(data)
        self.randomize(None)
        if not self._do_transform:
            out["ct_low_dose"] = asdict(CTLowDose(dose=1.0, seed=self.scan.seed))
            return out
        out["ct_low_dose"] = asdict(self.scan)
        for key in self.key_iterator(out):
            image = out[key]
            known = out if self.noise_map_key in out else CTNoiseMapd(key, self.noise_map_key)({key: image})
            noise = known[CT_NOISE]
            scan = self.scan if image.ndim == 4 else replace(self.scan, axial_correlation=0.0)
            low_dose, routine = insert_ct_noise(
                convert_to_tensor(image, dtype=torch.float32, track_meta=False),
                convert_to_tensor(known[self.noise_map_key], dtype=torch.float32, track_meta=False),
                float(noise["cutoff"]),
                float(noise["spacing"]),
                scan,
                self.lower,
                out.get(SLAB) if image.ndim == 4 else None,
            )
            out[key] = like(low_dose, image)
            if self.label_key is not None:
                out[self.label_key] = like(routine, out[self.label_key])
            out["ct_low_dose"] = asdict(scan)
        return out
