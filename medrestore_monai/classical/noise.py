"""How noisy an image is, measured in itself: no clean image is needed."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import convolve1d, uniform_filter

LEAST = 1e-6  # of the range: the level of an image without noise
_STEP = 2  # pixels
_BODY = 0.5  # of the mean


def noise_level(volume: np.ndarray) -> float:
    """Estimate the standard deviation of the noise in the body, over all slices together.

    Each slice is filtered with the difference of two Laplacians (Immerkaer), second differences along X and Y, which
    takes away whatever is linear along either; the median absolute value of the result in the body, over 0.6745, is the
    standard deviation of white normal noise. Pixels are compared with those two away, as noise of adjacent pixels is
    alike in most reconstructions. Fine structure counts as noise, too: the level puts images in order, it is no
    measurement of a scanner. The body is where the mean of 3x3 pixels is above half the mean of the volume.

    Args:
        volume: shape ``(C, X, Y[, Z])``, scaled to [0, 1].

    Returns:
        In the same unit, at least 1e-6; this for images of fewer than 5 pixels a side.

    References:
        Immerkaer, Fast noise variance estimation, Computer Vision and Image Understanding 64, 1996
    """
    slices = volume[..., None] if volume.ndim == 3 else volume
    if min(slices.shape[1:3]) < 2 * _STEP + 1:
        return LEAST
    slices = np.clip(slices, 0, 1).astype(np.float32)
    least = _BODY * slices.mean(dtype=np.float64)
    second = np.zeros(2 * _STEP + 1)
    second[[0, _STEP, -1]] = 1, -2, 1
    found = []
    for index in range(slices.shape[-1]):
        one = slices[..., index]
        body = uniform_filter(one, (0, 3, 3)) > least
        response = convolve1d(convolve1d(one, second, axis=1), second, axis=2) / 6  # of white noise the norm stays
        inside = (slice(None), slice(_STEP, -_STEP), slice(_STEP, -_STEP))
        found.append(np.abs(response[inside][body[inside]]))
    values = np.concatenate(found)
    return max(LEAST, float(np.median(values)) / 0.6745) if values.size else LEAST
