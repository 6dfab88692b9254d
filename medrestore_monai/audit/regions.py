"""Which pixels belong to the body, to a tissue, and to the flat part of it where noise can be measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, gaussian_filter1d

SMOOTHING = 2.5  # mm, standard deviation of the Gaussian by whose result pixels are put into classes
_MARGIN = 6.0  # mm that a flat region keeps from other classes
_NEIGHBORHOOD = 4.0  # mm, standard deviation of the Gaussian over which a gradient is averaged
_STEEPEST = 1.5  # times the gradient of the flattest quarter: pure noise stays below
_SAMPLE = 200_000  # pixels that thresholds are taken from


@dataclass(frozen=True)
class TissueClass:
    """Pixels whose smoothed value lies between two limits.

    Args:
        name: for people.
        low: lower limit in the unit of the image.
        high: upper limit.
    """

    name: str
    low: float
    high: float

    def inside(self, smooth: np.ndarray) -> np.ndarray:
        """Return the mask of a smoothed image."""
        return (smooth > self.low) & (smooth < self.high)


#: HU. Gaps between them leave out pixels that hold two tissues.
CT_CLASSES = (
    TissueClass("lung", -950.0, -700.0),
    TissueClass("fat", -140.0, -60.0),
    TissueClass("soft tissue", -20.0, 130.0),
    TissueClass("bone", 250.0, 2000.0),
)
_CT_BODY = -500.0  # HU


def smoothed(slices: np.ndarray, pixel: tuple[float, float], sigma: float = SMOOTHING) -> np.ndarray:
    """Smooth each slice of ``(X, Y, Z)`` with a Gaussian of ``sigma`` mm."""
    out = np.asarray(slices, dtype=np.float32)
    for axis, step in enumerate(pixel):
        out = gaussian_filter1d(out, sigma / step, axis=axis)
    return out


def body_mask(smooth: np.ndarray, modality: str) -> np.ndarray:
    """Return where the patient is, of a smoothed image ``(X, Y, Z)``; a picture is all of it."""
    if modality == "CT":
        return smooth > _CT_BODY
    if modality in ("RGB", "GRAY"):
        return np.ones(smooth.shape, dtype=bool)
    if modality == "PT":  # lesions and bladder would lift Otsu's threshold above the body
        return smooth > 0.5 * float(smooth.mean())
    from skimage.filters import threshold_otsu  # slow to import, and no CT needs it

    sample = _sample(smooth)
    return smooth > (threshold_otsu(sample) * 0.6 if np.ptp(sample) > 0 else np.inf)


def classes_of(smooth: np.ndarray, body: np.ndarray, modality: str) -> tuple[TissueClass, ...]:
    """Return the tissue classes of a smoothed image: fixed limits in HU for CT, else three by Otsu's method."""
    if modality == "CT":
        return CT_CLASSES
    from skimage.filters import threshold_multiotsu

    sample = _sample(smooth[body])
    if sample.size < 3 or len(np.unique(sample)) < 3:
        return ()
    low, high = (float(value) for value in threshold_multiotsu(sample, 3))
    return (
        TissueClass("dark third", -np.inf, low),
        TissueClass("middle third", low, high),
        TissueClass("bright third", high, np.inf),
    )


def flat_mask(smooth: np.ndarray, inside: np.ndarray, pixel: tuple[float, float]) -> np.ndarray:
    """Return the flat part of a class, chosen by the gradient of the smoothed image and never by its noise.

    Args:
        smooth: smoothed slices, shape ``(X, Y, Z)``.
        inside: mask of the class, of the same shape.
        pixel: size in mm.

    Returns:
        Pixels 6 mm from other classes whose gradient, root mean square over a neighborhood of 4 mm, is at most 1.5
        times that of the flattest quarter of the class: where there is nothing but noise, nearly all.
    """
    deep = np.zeros(inside.shape, dtype=bool)
    steep = np.zeros(inside.shape, dtype=np.float32)
    width = [_NEIGHBORHOOD / step for step in pixel]
    for index in range(inside.shape[2]):
        padded = np.pad(inside[..., index], 1)  # beyond the image there is another class
        deep[..., index] = distance_transform_edt(padded, sampling=pixel)[1:-1, 1:-1] > _MARGIN
        if min(smooth.shape[:2]) > 1:
            slope = np.gradient(smooth[..., index], *pixel)
            steep[..., index] = gaussian_filter(slope[0] ** 2 + slope[1] ** 2, width)
    if not deep.any():
        return deep
    return deep & (steep <= _STEEPEST**2 * np.percentile(steep[deep], 25))


def _sample(values: np.ndarray) -> np.ndarray:
    flat = values.ravel()
    return flat[:: max(1, flat.size // _SAMPLE)]
