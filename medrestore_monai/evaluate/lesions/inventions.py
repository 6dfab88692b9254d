"""What a result shows that its reference does not: blobs of their difference in images without planted lesions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, label

from medrestore_monai.audit import Volume
from medrestore_monai.audit.faithfulness import noise_map
from medrestore_monai.audit.noise import measure_noise
from medrestore_monai.audit.regions import body_mask, smoothed

WIDTH = 4.0  # mm, full width at half maximum of the Gaussian
THRESHOLD = 3.0  # noise standard deviations of the reference
_SIGMA = WIDTH / 2.3548


@dataclass(frozen=True)
class Inventions:
    """Blobs of one slice.

    Args:
        bright: connected regions where the smoothed difference exceeds the threshold.
        dark: where it lies below the negative threshold.
        noise: standard deviation in flat regions of the result, of PET over the local mean; ``None`` if unknown.
    """

    bright: int
    dark: int
    noise: float | None


def count_inventions(reference: Volume, restored: Volume) -> Inventions | None:
    """Count blobs of one slice; ``None`` where the noise of the reference cannot be measured.

    The difference is smoothed with a Gaussian of 4 mm full width at half maximum, and compared with three standard
    deviations of the reference's noise, not smoothed: noise alone stays far below.

    Args:
        reference: a clean slice.
        restored: the result, on the same grid.
    """
    noise = measure_noise(reference, restored)
    spectrum = noise.of_source
    if spectrum is None:
        return None
    width = [_SIGMA / step for step in reference.pixel]
    difference = gaussian_filter((restored.array - reference.array)[..., 0], width)
    scaled = difference / noise_map(reference, noise, spectrum)[..., 0]
    inside = body_mask(smoothed(reference.array, reference.pixel), reference.modality)[..., 0]
    bright, dark = (int(label((sign * scaled > THRESHOLD) & inside, np.ones((3, 3)))[1]) for sign in (1, -1))
    return Inventions(bright, dark, noise.figures[0].after)
