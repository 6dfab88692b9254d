"""Fourier ring correlation of patches: up to which frequency an image agrees with a reference.

``FRC(ring) = Re sum X Y* / sqrt(sum |X|^2 sum |Y|^2)`` of Hann-windowed patches of image and reference. A filter that
weights all directions alike leaves it at 1: what lowers it is noise, and structure that is not in the reference.

References:
    van Heel and Schatz, Fourier shell correlation threshold criteria, https://doi.org/10.1016/j.jsb.2005.05.009
"""

from __future__ import annotations

import numpy as np

from medrestore_monai.audit.gain import cut_patches
from medrestore_monai.audit.regions import body_mask, smoothed
from medrestore_monai.audit.spectrum import frequencies
from medrestore_monai.audit.volume import Volume

#: Below which an image no longer agrees with its reference, by modality; 0.5 for others.
THRESHOLDS = {"MR": 0.75}
_BODY = 0.9  # part of a patch that is body


def agreement(reference: Volume, image: Volume) -> np.ndarray:
    """Return for each patch of the body the first frequency in 1/mm where the correlation falls below the threshold.

    Args:
        reference: what is right.
        image: what is compared with it, on the same grid.

    Returns:
        Shape ``(n,)``; Nyquist where it does not fall; empty where no patch lies in the body.
    """
    side = 64 if min(reference.array.shape[:2]) >= 192 else 32
    inside = body_mask(smoothed(reference.array, reference.pixel), reference.modality)
    kept = cut_patches(inside, side).mean(axis=(1, 2)) >= _BODY
    right, compared = (cut_patches(one.array, side)[kept] for one in (reference, image))
    if not len(right):
        return np.zeros(0)
    frequency, correlation = ring_correlation(right, compared, reference.pixel)
    below = correlation[:, 1:] < THRESHOLDS.get(reference.modality, 0.5)  # the mean of a patch says nothing
    first = np.where(below.any(axis=1), below.argmax(axis=1) + 1, len(frequency) - 1)
    return np.asarray(frequency[first])


def ring_correlation(
    reference: np.ndarray, image: np.ndarray, pixel: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the frequencies of rings in 1/mm, up to Nyquist, and the correlation of each patch there.

    Args:
        reference: patches, shape ``(n, N, N)``.
        image: the same patches of what is compared.
        pixel: size in mm.

    Returns:
        Shapes ``(K,)`` and ``(n, K)``; 1 where neither patch has anything.
    """
    side = reference.shape[1]
    window = np.outer(*[np.hanning(side + 1)[:-1]] * 2)
    x, y = (np.fft.fft2((p - p.mean(axis=(1, 2), keepdims=True)) * window) for p in (image, reference))
    width = 1 / (side * max(pixel))
    ring = np.rint(frequencies((side, side), pixel) / width).astype(int).ravel()
    count = side // 2 + 1
    member = np.zeros((ring.size, count))
    member[np.nonzero(ring < count)[0], ring[ring < count]] = 1
    cross, first, second = (
        values.reshape(len(x), -1) @ member for values in ((x * y.conj()).real, np.abs(x) ** 2, np.abs(y) ** 2)
    )
    total = np.sqrt(first * second)
    floor = 1e-12 * max(float(total.max()), 1e-30)
    return np.arange(count) * width, np.where(total > floor, cross / np.maximum(total, floor), 1.0)
