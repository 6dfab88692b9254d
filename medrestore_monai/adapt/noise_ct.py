"""The noise that the slices of a CT scan have: measured, checked against the scan, and drawn anew.

Place and direction come from the attenuation (:func:`~medrestore_monai.transforms.ct.noise.ct_noise_map`), the kernel
and the level from flat soft tissue. That level is right to a quarter only, the place where the body is centered, and
the spectrum is one of a family. So all three are corrected by what the flat soft tissue shows against drawn noise: its
noise power spectrum by frequency, the level of each slice, and a plane of the level over it. The shape of the
spectrum below 0.3/mm stays that of the family, as anatomy has more there than noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from medrestore_monai.adapt.noise_check import LevelCheck, block_ratios, check_level, place_factor, robust_ratio
from medrestore_monai.adapt.slice_correlation import axial_width_of
from medrestore_monai.audit.spectrum import frequencies, spectrum_of_islands
from medrestore_monai.transforms.axial_noise import axial_weights, white_slices
from medrestore_monai.transforms.ct.noise import flat_soft_tissue, noise_spectrum, shape_noise, total_noise_std
from medrestore_monai.transforms.ct.noise_measure import CTNoiseMapd

_MARGIN = 8  # pixels around a patch that the Fourier filter may wrap into
_LOWEST = 0.3  # per mm; below, the spectrum of flat tissue is anatomy as well: at 0.14, 3.6 times the noise (D45f)
_HELD = (_LOWEST, 0.4)  # per mm, whose mean correction holds below
_WEAKEST = 0.03  # of the peak of the drawn spectrum: rings below are not compared
_MOST_GAIN = 2.0  # of the correction of one ring, in amplitude, and its inverse
_DRAWS = 2


@dataclass(frozen=True, eq=False)
class CTNoiseModel:
    """Noise of a CT volume, of which one draws.

    Args:
        maps: standard deviation in HU per direction, shape ``(D, X, Y, Z)``.
        cutoff: sharpness of the kernel in cycles/mm.
        spacing: of pixels and slices in mm.
        rings: frequencies in 1/mm, rising, and the gain of the spectrum's amplitude there.
        axial_width: full width at half maximum in mm of the filter that correlates neighboring slices.
        check: how drawn noise compares with that of the volume; ``None`` of a model that was made by hand.
    """

    maps: Tensor
    cutoff: float
    spacing: tuple[float, float, float]
    rings: tuple[np.ndarray, np.ndarray] = (np.zeros(1), np.ones(1))
    axial_width: float = 0.0
    check: LevelCheck | None = None

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation in HU, shape ``(1, X, Y, Z)``."""
        size = (self.maps.shape[1] + 2 * _MARGIN, self.maps.shape[2] + 2 * _MARGIN)
        family = noise_spectrum(size, self.cutoff, self.spacing[0])
        gain = self._spectrum(size) / family
        weight = family.square()
        weight[:, 1 : (size[1] + 1) // 2] *= 2  # the half that rfft2 leaves out
        factor = float(((gain.square() * weight).sum() / weight.sum()).sqrt())
        slices = [total_noise_std(one) for one in self.maps.unbind(-1)]
        return torch.stack(slices, dim=-1) * factor

    def draw(self, generator: torch.Generator | None = None, numbers: Sequence[int] | None = None) -> Tensor:
        """Draw noise in HU, shape ``(1, X, Y, Z)``; neighboring slices are correlated as they are in the volume.

        Args:
            generator: of the seed.
            numbers: of the slices in their volume, ``Z`` of them; equal ones get equal noise. From 0 on by default.
        """
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        size = (self.maps.shape[1] + 2 * _MARGIN, self.maps.shape[2] + 2 * _MARGIN)
        weights = axial_weights(self.axial_width, self.spacing[2])
        white = torch.from_numpy(white_slices(seed, numbers or range(self.maps.shape[3]), size, weights))
        spectrum = self._spectrum(size)
        drawn = [shape_noise(one, known, spectrum) for one, known in zip(white, self.maps.unbind(-1), strict=True)]
        return torch.stack(drawn, dim=-1)

    def cropped(self, place: Sequence[slice]) -> CTNoiseModel:
        """Return the noise of a part of the volume, ``place`` along X, Y and Z."""
        index = (slice(None), *place)
        return replace(self, maps=self.maps[index])

    def scaled(self, factor: float) -> CTNoiseModel:
        """Return noise of ``factor`` times the standard deviation."""
        return replace(self, maps=self.maps * factor)

    def of_family(self) -> CTNoiseModel:
        """Return noise of the uncorrected spectrum and the same standard deviation: a second, plausible spectrum."""
        plain = replace(self, rings=(np.zeros(1), np.ones(1)))
        return plain.scaled(float(self.std.mean() / plain.std.mean()))

    def _spectrum(self, size: tuple[int, int]) -> Tensor:
        spectrum = noise_spectrum(size, self.cutoff, self.spacing[0])
        radius = frequencies(size, self.spacing[:2])[:, : size[1] // 2 + 1]
        return spectrum * torch.from_numpy(np.interp(radius, *self.rings)).to(spectrum)


def measure_ct_noise(volume: Tensor, spacing: Sequence[float]) -> CTNoiseModel:
    """Measure the noise of a CT volume.

    Args:
        volume: in HU, shape ``(1, X, Y, Z)``, whole slices.
        spacing: of pixels and slices in mm, three numbers.

    Returns:
        The noise, with the check of its level in ``check``, which may have failed.

    Raises:
        NoFlatTissueError: no slice shows enough flat soft tissue.
    """
    x, y, z = (float(step) for step in spacing)
    measured = CTNoiseMapd("image", spacing=x)({"image": volume})
    maps, about = measured["noise_map"].as_tensor().float(), measured["ct_noise"]
    model = CTNoiseModel(maps, float(about["cutoff"]), (x, y, z), axial_width=axial_width_of(volume, (x, y, z), "CT"))
    flat = torch.stack([flat_soft_tissue(one[0], x) for one in volume.unbind(-1)], dim=-1).numpy()
    image = volume[0].numpy()
    model = replace(model, rings=_correction(image, model, flat))
    drawn = _draws(model)
    factor = robust_ratio(image, drawn, flat)[None, None] * np.ones_like(image)
    blocks = block_ratios(image, [one * factor for one in drawn], flat, (x, y))
    for number in range(image.shape[2]):
        factor[..., number] *= place_factor(blocks[blocks[:, 2] == number], image.shape[:2])
    drawn = [one * factor for one in drawn]
    again = robust_ratio(image, drawn, flat).astype(np.float32)
    factor, drawn = factor * again, [one * again for one in drawn]
    model = replace(model, maps=model.maps * torch.from_numpy(factor).to(model.maps))
    return replace(model, check=check_level(image, drawn, flat, (x, y), factor, before=blocks))


def _draws(model: CTNoiseModel) -> list[np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    return [model.draw(generator)[0].numpy() for _ in range(_DRAWS)]


def _correction(image: np.ndarray, model: CTNoiseModel, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rings, and by how much the noise of flat tissue has a greater amplitude there than drawn noise."""
    pixel = model.spacing[:2]
    frequency, wanted = spectrum_of_islands(image, flat, pixel).rings()
    powers = [spectrum_of_islands(drawn, flat, pixel).rings()[1] for drawn in _draws(model)]
    drawn = np.mean(powers, axis=0)
    compared = (frequency >= _LOWEST) & (drawn > _WEAKEST * drawn.max())
    if compared.sum() < 3:
        return np.zeros(1), np.ones(1)
    ratio = np.sqrt(np.clip(wanted[compared] / drawn[compared], _MOST_GAIN**-2, _MOST_GAIN**2))
    smooth = np.convolve(np.pad(ratio, 1, mode="edge"), (0.25, 0.5, 0.25), mode="valid")
    at = frequency[compared]
    held = at <= _HELD[1]
    first = float(smooth[held].mean()) if held.any() else float(smooth[0])
    return np.concatenate([[0.0], at]), np.concatenate([[first], smooth])
