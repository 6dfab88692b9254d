"""A limit of what a restoration may change, in units of the source's noise: of each voxel, and of the smoothed change.

A voxel alone may pass a structure that was invented from many small changes, so the change map of ``faithfulness`` is
limited, too: from the widest Gaussian to the narrowest, the excess is taken out of the change with the same Gaussian.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_tensor
from scipy.ndimage import gaussian_filter

from medrestore_monai.audit.faithfulness import WIDTHS, noise_map, noise_spread
from medrestore_monai.audit.noise import measure_noise
from medrestore_monai.audit.regions import body_mask, smoothed
from medrestore_monai.audit.volume import Volume
from medrestore_monai.intensity import modality_of, scale_from_noted
from medrestore_monai.notes import note

LEAST = 4.0  # below, too many right voxels are held back: of white noise 700 a slice of 512 x 512 at 3, and 17 at 4
_ROUNDS = 60
_TOLERANCE = 1.01


@dataclass(frozen=True, eq=False)
class Limited:
    """A restored image whose change is limited.

    Args:
        array: the image, shape ``(X, Y, Z)``, in the unit of the source.
        voxels: whose change exceeded the limit.
        regions: voxels where a smoothed change exceeded it.
        slices: that were changed.
        unlimited: slices whose noise could not be measured: they stay as they are.
        reason: why; empty if the limit holds everywhere.
    """

    array: np.ndarray
    voxels: int = 0
    regions: int = 0
    slices: int = 0
    unlimited: int = 0
    reason: str = ""


def limit_change(source: Volume, restored: Volume, limit: float) -> Limited:
    """Hold a restoration back where it changes its source by more than noise explains.

    Each slice is limited by its own noise, so that it does not matter which slices are read together.

    Args:
        source: the input.
        restored: the output, on the same grid.
        limit: in standard deviations of the local noise, for voxels; of the noise smoothed alike, for Gaussians of 1,
            1.5, 2.5 and 4 pixels.

    Raises:
        ValueError: the limit is below 4.
    """
    if not limit >= LEAST:
        raise ValueError(f"limit_change must be at least {LEAST:g}, got {limit}.")
    array = restored.array.copy()
    voxels = regions = slices = unlimited = 0
    reason = ""
    for index in range(source.slices):
        one = Volume(source.array[..., index], source.modality, source.spacing, source.unit, source.suv_factor)
        held = _limit_slice(one, restored.array[..., index], limit)
        if held.reason:
            unlimited, reason = unlimited + 1, reason or held.reason
        elif held.slices:
            array[..., index] = held.array
            voxels, regions, slices = voxels + held.voxels, regions + held.regions, slices + 1
    return Limited(array, voxels, regions, slices, unlimited, reason)


def _limit_slice(source: Volume, restored: np.ndarray, limit: float) -> Limited:
    """Limit one slice; ``restored`` and the result have the shape ``(X, Y)``."""
    noise = measure_noise(source, source)
    spectrum = noise.of_source
    if spectrum is None:
        return Limited(restored, reason=noise.figures[0].not_measured or "there is no noise")
    spreads = {width: noise_spread(spectrum, width) for width in sorted(WIDTHS, reverse=True)}
    body = body_mask(smoothed(source.array, source.pixel), source.modality)[..., 0]
    scale = noise_map(source, noise, spectrum)[..., 0]
    change = (restored - source.array[..., 0]) / scale
    above = (np.abs(change) > limit) & body
    wide = np.zeros_like(above)
    for width, spread in spreads.items():
        wide |= (np.abs(gaussian_filter(change, width)) > limit * spread) & body
    if not (above.any() or wide.any()):
        return Limited(restored)
    array = source.array[..., 0] + _within(change, body, spreads, limit) * scale
    return Limited(array, int(above.sum()), int(wide.sum()), 1)


def _within(change: np.ndarray, body: np.ndarray, spreads: Mapping[float, float], limit: float) -> np.ndarray:
    """Return the nearest change found that keeps all limits within a body; what is outside may move with it."""
    held = np.where(body, np.clip(change, -limit, limit), change).astype(np.float64)
    for _ in range(_ROUNDS):
        largest = 0.0
        for width, spread in spreads.items():
            smooth = gaussian_filter(held, width)
            excess = np.where(body, smooth - np.clip(smooth, -limit * spread, limit * spread), 0)
            at = np.unravel_index(np.abs(excess).argmax(), excess.shape)
            largest = max(largest, abs(float(smooth[at])) / spread if excess[at] else 0.0)
            if excess[at]:
                taken = gaussian_filter(excess, width)
                # the step that brings the largest excess to the limit
                held -= taken * (excess[at] / gaussian_filter(taken, width)[at])
        held = np.where(body, np.clip(held, -limit, limit), held)
        if largest <= limit * _TOLERANCE:
            return held
    return held * (limit / largest)


class LimitChanged(MapTransform):
    """Limit how far a restoration may change its source, see :func:`limit_change`; what was held back is noted.

    For the postprocessing, after ``FromUnitRanged``: the result is in its physical unit there; the input may still be
    scaled, as the ``intensity_range`` in its meta data says. The noise is that of each slice.

    Args:
        keys: the restored images, shape ``(1, X, Y[, Z])``.
        like: the input.
        limit: at least 4, in standard deviations of the noise; ``None`` for no limit.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: the limit is below 4.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        like: str = "image",
        limit: float | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if limit is not None and not limit >= LEAST:
            raise ValueError(f"limit_change must be at least {LEAST:g}, got {limit}.")
        self.like, self.limit = like, limit

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the changes of the images limited."""
        out = dict(data)
        if self.limit is None:
            return out
        image = out[self.like]
        modality = modality_of(image, self.like)
        physical = scale_from_noted(image)
        steps = np.linalg.norm(np.asarray(image.affine, dtype=np.float64)[:3, :3], axis=0)
        spacing = (float(steps[0]), float(steps[1]), float(steps[2]))
        for key in self.key_iterator(out):
            restored = convert_to_tensor(out[key], track_meta=False)
            source = Volume(physical[0].numpy(), modality, spacing)
            limited = limit_change(source, source.like(restored[0].cpu().numpy()), self.limit)
            self._note(limited, image)
            array = limited.array.reshape(restored.shape)
            out[key] = convert_to_dst_type(array, out[key])[0]
        return out

    def _note(self, limited: Limited, image: Any) -> None:
        name = Path(str(image.meta.get("source", "the image"))).name
        if limited.reason:
            note(f"{name}: the change was not limited in {limited.unlimited} slice(s): {limited.reason}.", stacklevel=3)
        if limited.slices:
            note(
                f"{name}: the change was held back to {self.limit:g} noise standard deviations in {limited.slices} "
                f"slice(s), at {limited.voxels} voxels alone and {limited.regions} of a smoothed change.",
                stacklevel=3,
            )
