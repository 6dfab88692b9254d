"""The two images of an audit: voxels in physical units on one grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medrestore_monai.intensity import INTENSITY_RANGES


@dataclass(frozen=True, eq=False)
class Volume:
    """One image in its physical unit.

    Args:
        array: shape ``(X, Y, Z)``, or ``(X, Y)`` for a single slice; kept as float32 with three axes.
        modality: ``CT``, ``PT``, ``MR``, ``RGB`` or ``GRAY``.
        spacing: voxel size along X, Y and Z in ``length``.
        unit: of the voxels, such as HU.
        suv_factor: PET: SUV per ``unit``; ``None`` if it is unknown.
        affine: voxel index to mm, RAS; only the display uses it.
        length: unit of ``spacing``: mm, or px where the pixel size is unknown.
        about: what else is known, for the provenance.

    Raises:
        ValueError: a value is not finite, or the shape, the spacing or the modality cannot be used.
    """

    array: np.ndarray
    modality: str
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unit: str = ""
    suv_factor: float | None = None
    affine: np.ndarray | None = None
    length: str = "mm"
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        array = np.asarray(self.array, dtype=np.float32)
        array = array[..., None] if array.ndim == 2 else array
        if array.ndim != 3 or not array.size:
            raise ValueError(f"an image has the shape (X, Y) or (X, Y, Z), got {np.shape(self.array)}.")
        if not np.isfinite(array).all():
            raise ValueError("the image has NaN or infinite values: expected finite ones.")
        if self.modality not in INTENSITY_RANGES:
            raise ValueError(f"modality must be one of {', '.join(INTENSITY_RANGES)}, got {self.modality!r}.")
        if len(self.spacing) != 3 or not all(np.isfinite(step) and step > 0 for step in self.spacing):
            raise ValueError(f"spacing must be three lengths above 0, got {self.spacing}.")
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "spacing", tuple(float(step) for step in self.spacing))
        if not self.unit:
            object.__setattr__(self, "unit", INTENSITY_RANGES[self.modality].unit)

    @property
    def pixel(self) -> tuple[float, float]:
        """Pixel size within a slice."""
        return self.spacing[:2]

    @property
    def slices(self) -> int:
        """Number of slices."""
        return int(self.array.shape[2])

    def like(self, array: np.ndarray) -> Volume:
        """Return other voxels on the grid of this image.

        Raises:
            ValueError: they have another shape.
        """
        other = Volume(array, self.modality, self.spacing, self.unit, self.suv_factor, self.affine, self.length)
        if other.array.shape != self.array.shape:
            raise ValueError(
                f"the source has the shape {self.array.shape} and the restored image {other.array.shape}: "
                "give a restored image on the grid of its source."
            )
        return other


def chosen_slices(count: int, most: int = 16) -> np.ndarray:
    """Return the numbers of at most ``most`` slices, evenly spread over a volume of ``count``."""
    if most == 0 or count <= most:
        return np.arange(min(count, most))
    return np.unique(np.linspace(0, count - 1, most + 2)[1:-1].round().astype(int))
