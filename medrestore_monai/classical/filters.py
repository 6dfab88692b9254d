"""Classical methods for single pictures ``(C, X, Y)``: smoothing, sharpening, enlarging, k-space; see the package."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, median_filter
from skimage import restoration


def gaussian(image: np.ndarray, sigma: float) -> np.ndarray:
    """Smooth with a Gaussian of ``sigma`` pixels."""
    return gaussian_filter(image, (0, sigma, sigma), mode="nearest")


def unsharp_masking(image: np.ndarray, sigma: float, amount: float) -> np.ndarray:
    """Add ``amount`` times what a Gaussian of ``sigma`` pixels takes away."""
    return image + amount * (image - gaussian(image, sigma))


def bicubic(image: np.ndarray, factor: float) -> np.ndarray:
    """Shrink by ``factor`` and enlarge again with cubic splines."""
    from skimage.transform import resize  # slow to import; restoring does not need it

    small = [max(1, round(size / factor)) for size in image.shape[1:]]
    planes = [
        resize(resize(plane, small, order=3, anti_aliasing=True, mode="edge"), plane.shape, order=3, mode="edge")
        for plane in image
    ]
    return np.stack(planes)


def total_variation(image: np.ndarray, weight: float) -> np.ndarray:
    """Minimize total variation (Chambolle) with scikit-image's ``weight``."""
    return restoration.denoise_tv_chambolle(image, weight=weight, channel_axis=0)


def non_local_means(image: np.ndarray, h: float) -> np.ndarray:
    """Average pixels with alike 5x5 surroundings up to 6 pixels away; ``h`` is how far values may differ."""
    options = {"patch_size": 5, "patch_distance": 6, "h": h, "fast_mode": True}
    if len(image) == 1:  # scikit-image would drop the channel, and swap X and Y
        return restoration.denoise_nl_means(image[0], **options)[None]
    return restoration.denoise_nl_means(image, **options, channel_axis=0)


def median(image: np.ndarray, radius: float) -> np.ndarray:
    """Take the median of all pixels whose centers are at most ``radius`` pixels away; borders are repeated."""
    reach = np.arange(-int(radius), int(radius) + 1)
    disk = reach[:, None] ** 2 + reach**2 <= radius**2
    return median_filter(image, footprint=disk[None], mode="nearest")


def bilateral(image: np.ndarray, sigma: float, spread: float) -> np.ndarray:
    """Average pixels that are near, in a Gaussian of ``sigma`` pixels, and alike, in one of ``spread``.

    The Gaussian ends after two ``sigma``; borders are repeated. scikit-image's own, as of 0.26, weighs by distances of
    a window that is one pixel off.
    """
    reach = int(np.ceil(2 * sigma))
    padded = np.pad(image, [(0, 0), (reach, reach), (reach, reach)], mode="edge")
    total, weights = np.zeros_like(image), np.zeros_like(image)
    for x, y in np.ndindex(2 * reach + 1, 2 * reach + 1):
        near = padded[:, x : x + image.shape[1], y : y + image.shape[2]]
        distance = ((x - reach) ** 2 + (y - reach) ** 2) / sigma**2 + ((near - image) / spread) ** 2
        weight = np.exp(-distance / 2)
        total += weight * near
        weights += weight
    return total / weights


def anscombe_non_local_means(image: np.ndarray, gain: float, h: float) -> np.ndarray:
    """Non-local means for counts: ``image / gain`` is taken as Poisson, and its variance made 1 before.

    References:
        Makitalo and Foi, A closed-form approximation of the exact unbiased inverse of the Anscombe transform, 2011
    """
    stable = 2 * np.sqrt(np.maximum(image / gain, 0) + 3 / 8)
    smooth = np.maximum(non_local_means(stable, h), 2 * np.sqrt(3 / 8))
    inverse = smooth**2 / 4 + np.sqrt(1.5) / 4 / smooth - 11 / 8 / smooth**2 + 5 * np.sqrt(1.5) / 8 / smooth**3 - 1 / 8
    return gain * np.maximum(inverse, 0)


def apodization(image: np.ndarray, fraction: float, taper: float) -> np.ndarray:
    """Let the measured center of k-space fade out, against Gibbs ringing: a Tukey window along both axes.

    Args:
        image: shape ``(C, X, Y)``, of which the central ``fraction`` of the lines of k-space was measured.
        fraction: in (0, 1].
        taper: part of these lines, at both ends, that fade out as a squared cosine; in (0, 1], 1 is a Hann window.
    """
    windows = []
    for size in image.shape[1:]:
        distance = np.abs(np.fft.fftfreq(size)) * size / (_measured_lines(size, fraction) / 2)  # 1 at the last line
        fade = np.clip((distance - 1) / taper + 1, 0, 1)
        windows.append(np.cos(np.pi / 2 * fade) ** 2)
    k_space: np.ndarray = np.fft.fft2(image) * np.outer(*windows)
    return np.fft.ifft2(k_space).real


def pocs_total_variation(image: np.ndarray, fraction: float, weight: float) -> np.ndarray:
    """Fill in the k-space that was not measured: total variation shrinks, the measured center is put back; 20 times.

    A projection onto convex sets (POCS) that alternates with a denoiser; it ends with the measured center.

    Args:
        image: shape ``(C, X, Y)``, of which the central ``fraction`` of the lines of k-space was measured.
        fraction: in (0, 1].
        weight: of total variation in each round, as in :func:`total_variation`.
    """
    # the line at the negative end of an even count has no partner, which a real image needs
    inside = [
        np.abs(np.fft.fftfreq(size) * size).round() < _measured_lines(size, fraction) / 2 for size in image.shape[1:]
    ]
    mask = np.outer(*inside)
    measured, restored = np.fft.fft2(image), image
    for _ in range(20):
        smooth = restoration.denoise_tv_chambolle(restored, weight=weight, max_num_iter=10, channel_axis=0)
        restored = np.fft.ifft2(np.where(mask, measured, np.fft.fft2(smooth))).real
    return restored


def bm3d(image: np.ndarray, noise: float) -> np.ndarray:
    """BM3D for a standard deviation of ``noise``. Its package is non-commercial, and not installed with this one."""
    from bm3d import bm3d as run

    return np.stack([run(plane, noise) for plane in image])


def _measured_lines(size: int, fraction: float) -> int:
    """Count the lines of k-space that :func:`medrestore_monai.transforms.truncate_kspace` keeps."""
    return max(1, min(size, round(fraction * size)))
