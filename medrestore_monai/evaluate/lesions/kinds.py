"""Which lesions are planted in images of a modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LesionKind:
    """A sphere of uniform contrast.

    Args:
        diameter: in mm.
        contrast: to what is around it: in HU for CT, else as a part of the local mean.
        is_relative: whether ``contrast`` is such a part.
        blur: standard deviation in mm of the Gaussian that stands for the scanner's resolution in the slice.
        axial_blur: the same across slices; a slice is as thick as slices are apart.
    """

    diameter: float
    contrast: float
    is_relative: bool
    blur: float
    axial_blur: float = 0.0

    @property
    def described(self) -> str:
        """Diameter and contrast in words."""
        contrast = f"{100 * self.contrast:+.0f} %" if self.is_relative else f"{self.contrast:+g} HU"
        return f"{self.diameter:g} mm, {contrast}"


def _family(
    diameters: tuple[float, ...], contrasts: tuple[float, ...], is_relative: bool, blur: float, axial_blur: float = 0.0
) -> tuple[LesionKind, ...]:
    return tuple(
        LesionKind(diameter, contrast, is_relative, blur, axial_blur)
        for contrast in contrasts
        for diameter in diameters
    )


# CT: a soft kernel, 50 % at 0.31/mm. PET: a full width at half maximum of 6 mm. MR: about a pixel of 1 mm.
KINDS: Mapping[str, tuple[LesionKind, ...]] = {
    "CT": _family((3, 5, 8, 12), (-15, 50), False, 0.6),
    "PT": _family((6, 10, 17, 30), (1, 3), True, 2.5, 2.5),
    "MR": _family((3, 6, 12), (0.05, 0.3), True, 0.4),
}
