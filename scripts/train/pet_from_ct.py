"""Draw FDG PET upon real CT anatomy: whole cross-sections to train on, where the real PET is small crops.

Tissue classes come from HU; each gets a typical SUV (ranges below), a smooth variation, and lesions are put in. The
result is what a full-count PET of that anatomy could look like, without noise; it is no measurement of anybody.
"""

import numpy as np
from scipy import ndimage

# least HU, greatest HU, range of SUV by body weight; what lies between is interpolated by the blur
TISSUES = (
    (-950, -500, (0.25, 0.7)),  # lung
    (-500, -30, (0.15, 0.45)),  # fat
    (-30, 25, (0.5, 1.0)),  # muscle, fluid
    (25, 75, (0.6, 2.4)),  # organs and vessels
    (75, 180, (1.0, 3.0)),  # enhanced organs, marrow
    (180, 3072, (0.7, 2.0)),  # bone
)
LESIONS = (0, 5)  # how many a slice has
LESION_RADIUS = (3.0, 18.0)  # mm
LESION_SUV = (2.0, 14.0)
RESOLUTION = (4.5, 7.5)  # full width at half maximum, mm
PIXEL = (3.2, 5.4)  # mm
DISTANCE = (2.0, 5.0)  # of slices, mm


def body_mask(hu: np.ndarray) -> np.ndarray:
    """Return the largest object above -400 HU of each slice, table left out and lungs filled; shape ``(X, Y[, Z])``."""
    if hu.ndim == 3:
        return np.stack([body_mask(hu[..., number]) for number in range(hu.shape[2])], axis=-1)
    parts, count = ndimage.label(ndimage.binary_opening(hu > -400, iterations=3))
    if not count:
        return np.zeros(hu.shape, bool)
    sizes = ndimage.sum_labels(np.ones_like(parts), parts, range(1, count + 1))
    return np.asarray(ndimage.binary_fill_holes(parts == 1 + int(np.argmax(sizes))))


def pet_from_ct(hu: np.ndarray, spacing: float, random: np.random.RandomState) -> tuple[np.ndarray, float]:
    """Return a noise-free PET slice in SUV and its pixel size in mm.

    Args:
        hu: a CT slice in HU, shape ``(X, Y)``.
        spacing: its pixel size, mm.
        random: draws activities, lesions, resolution and pixel size.
    """
    suv, (pixel, _) = _drawn(hu, (spacing, spacing), random, random.uniform(*PIXEL))
    return suv, pixel


def pet_volume_from_ct(
    hu: np.ndarray, spacing: float, distance: float, random: np.random.RandomState
) -> tuple[np.ndarray, float, float]:
    """Return a noise-free PET volume in SUV, its pixel size and the distance of its slices in mm.

    Args:
        hu: a CT volume in HU, shape ``(X, Y, Z)``.
        spacing: its pixel size, mm.
        distance: of its slices, mm.
        random: draws activities, lesions, resolution, pixel size and distance.
    """
    pixel, wanted = random.uniform(*PIXEL), random.uniform(*DISTANCE)
    suv, steps = _drawn(hu, (spacing, spacing, distance), random, pixel, wanted)
    return suv, pixel, steps[2]


def _drawn(
    hu: np.ndarray,
    spacing: tuple[float, ...],
    random: np.random.RandomState,
    pixel: float,
    distance: float = 0.0,
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Draw upon ``hu`` and resample to ``pixel`` and ``distance``; also the steps of the new grid in mm."""
    steps = np.array(spacing)
    body = body_mask(hu)
    smooth = ndimage.gaussian_filter(hu, 1.5 / steps)  # CT noise is no anatomy
    suv = np.zeros(hu.shape, np.float32)
    for least, greatest, (low, high) in TISSUES:
        suv[body & (smooth >= least) & (smooth < greatest)] = random.uniform(low, high)
    field = ndimage.gaussian_filter(random.standard_normal(hu.shape), random.uniform(8, 25) / steps)
    suv *= np.exp(random.uniform(0, 0.4) * field / field.std()).astype(np.float32)
    _add_lesions(suv, body, spacing, random)
    width = random.uniform(*RESOLUTION)
    blurred = ndimage.gaussian_filter(suv, width / 2.355 / steps)
    new = np.array([pixel, pixel, distance][: hu.ndim])
    drawn = ndimage.zoom(blurred, steps / new, order=1).astype(np.float32).clip(0)
    return drawn, tuple(float(step) for step in new)


def _add_lesions(
    suv: np.ndarray, body: np.ndarray, spacing: float | tuple[float, ...], random: np.random.RandomState
) -> None:
    """Put ellipses, or ellipsoids of a volume, into the body: as many a slice, or as many in 30 mm, as LESIONS says."""
    steps = np.broadcast_to(np.asarray(spacing, dtype=float), suv.ndim)
    inside = np.argwhere(body)
    axes = np.ogrid[tuple(slice(side) for side in suv.shape)]
    often = 1.0 if suv.ndim == 2 else max(1.0, suv.shape[2] * steps[2] / 30)
    count = round(often * random.randint(LESIONS[0], LESIONS[1] + 1)) if len(inside) else 0
    for _ in range(count):
        center, radii = inside[random.randint(len(inside))], random.uniform(*LESION_RADIUS, size=suv.ndim) / steps
        lesion = sum(((axis - at) / radius) ** 2 for axis, at, radius in zip(axes, center, radii, strict=True)) < 1
        suv[lesion & body] = random.uniform(*LESION_SUV)
