"""Classical restorations to compare networks with, through scikit-image and SciPy.

Each is a function of one picture ``(C, X, Y)`` scaled to [0, 1] as the networks see it; :class:`Classical` runs it on
batches, so that it stands where a network stands. No parameter here is learned; ``scripts/tune_classical.py`` chooses
them on training data.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, median_filter
from scipy.signal import fftconvolve
from skimage import restoration
from skimage.transform import resize
from torch import Tensor

__all__ = ["BASELINES", "GRIDS", "KNOWN", "METHODS", "Classical"]


def gaussian(image: np.ndarray, sigma: float) -> np.ndarray:
    """Smooth with a Gaussian of ``sigma`` pixels."""
    return gaussian_filter(image, (0, sigma, sigma), mode="nearest")


def unsharp_masking(image: np.ndarray, sigma: float, amount: float) -> np.ndarray:
    """Add ``amount`` times what a Gaussian of ``sigma`` pixels takes away."""
    return image + amount * (image - gaussian(image, sigma))


def bicubic(image: np.ndarray, factor: float) -> np.ndarray:
    """Shrink by ``factor`` and enlarge again with cubic splines."""
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


def wiener(image: np.ndarray, sigma: float, balance: float, psf: np.ndarray | None = None) -> np.ndarray:
    """Deconvolve (Wiener-Hunt) with a known kernel ``psf``, or a Gaussian of ``sigma`` pixels where none is known."""
    return _deconvolved(image, _kernel(psf, sigma), lambda plane, k: restoration.wiener(plane, k, balance, clip=False))


def unsupervised_wiener(image: np.ndarray, sigma: float, psf: np.ndarray | None = None) -> np.ndarray:
    """As :func:`wiener`, with the balance found by Gibbs sampling, with a fixed seed."""
    return _deconvolved(
        image,
        _kernel(psf, sigma),
        lambda plane, kernel: restoration.unsupervised_wiener(plane, kernel, clip=False, rng=0)[0],
    )


def richardson_lucy(image: np.ndarray, sigma: float, iterations: float, psf: np.ndarray | None = None) -> np.ndarray:
    """Deconvolve for Poisson noise with a known kernel ``psf``, or a Gaussian of ``sigma`` pixels where none is."""
    return _deconvolved(
        np.maximum(image, 0),
        _kernel(psf, sigma),
        lambda plane, kernel: restoration.richardson_lucy(
            plane, kernel, num_iter=round(iterations), clip=False, filter_epsilon=1e-6
        ),
    )


METHODS: dict[str, Callable[..., np.ndarray]] = {
    function.__name__: function
    for function in (
        gaussian,
        unsharp_masking,
        bicubic,
        total_variation,
        non_local_means,
        median,
        bilateral,
        anscombe_non_local_means,
        apodization,
        pocs_total_variation,
        bm3d,
        wiener,
        unsupervised_wiener,
        richardson_lucy,
    )
}

# Which methods a task is compared with, and their parameters where nothing was tuned. Those for denoising are the best
# for quarter-dose CT on the training data of the CT bundle; the others are only usual values.
BASELINES: dict[str, dict[str, dict[str, float]]] = {
    "denoising": {
        "gaussian": {"sigma": 0.6},
        "total_variation": {"weight": 0.01},
        "non_local_means": {"h": 0.01},
    },
    "deblurring": {
        "unsharp_masking": {"sigma": 2.0, "amount": 1.0},
        "wiener": {"sigma": 2.0, "balance": 0.01},
        "unsupervised_wiener": {"sigma": 2.0},
        "richardson_lucy": {"sigma": 2.0, "iterations": 10},
    },
    "super-resolution": {
        "bicubic": {"factor": 4.0},
        "unsharp_masking": {"sigma": 2.0, "amount": 0.3},
        "total_variation": {"weight": 0.01},
        "apodization": {"fraction": 0.25, "taper": 0.25},
        "pocs_total_variation": {"fraction": 0.25, "weight": 0.01},
    },
    "synthesis": {
        "gaussian": {"sigma": 1.0},
        "total_variation": {"weight": 0.01},
        "non_local_means": {"h": 0.01},
        "median": {"radius": 1.0},
        "bilateral": {"sigma": 1.0, "spread": 0.03},
        "anscombe_non_local_means": {"gain": 0.001, "h": 1.0},
    },
}

# Values among which tuning chooses first, before it looks between the best and its neighbors.
GRIDS: dict[str, tuple[float, ...]] = {
    "sigma": (0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6),
    "amount": (0.125, 0.25, 0.5, 1.0, 2.0, 4.0),
    "weight": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "h": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "noise": (0.001, 0.003, 0.01, 0.03, 0.1),
    "balance": (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
    "iterations": (2, 5, 10, 20, 40),
    "gain": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    "factor": (1.0, 1.5, 2.0, 3.0, 4.0),
    "radius": (1.0, 1.5, 2.0, 3.0, 4.0),
    "spread": (0.003, 0.01, 0.03, 0.1, 0.3),
    "taper": (0.0625, 0.125, 0.25, 0.5, 1.0),
}

# Parameters that are known from how an image was taken, and the setting of ``evaluate.json`` that tells them.
KNOWN: dict[str, str] = {"fraction": "kspace_fraction"}


class Classical:
    """A classical method with its parameters, called as a network is.

    Args:
        method: a name in :data:`METHODS`.
        parameters: its parameters by name, all of them, positive.

    Raises:
        ValueError: for an unknown method, or missing, unknown or bad parameters.
        RuntimeError: the method needs a package that is not installed.
    """

    def __init__(self, method: str, parameters: Mapping[str, float]) -> None:
        if method not in METHODS:
            raise ValueError(f"a classical baseline is one of {', '.join(METHODS)}, got {method!r}.")
        expected = [name for name in inspect.signature(METHODS[method]).parameters if name not in ("image", "psf")]
        if sorted(parameters) != sorted(expected):
            raise ValueError(f"{method} takes {', '.join(expected)}, got {', '.join(parameters) or 'nothing'}.")
        for name, value in parameters.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ValueError(f"{name} of {method} must be a number above 0, got {value!r}.")
        if method == "bm3d" and importlib.util.find_spec("bm3d") is None:
            raise RuntimeError("the baseline bm3d needs the package bm3d, which is for non-commercial use only.")
        self.method = method
        self.parameters = dict(parameters)
        self.takes_psf = "psf" in inspect.signature(METHODS[method]).parameters

    def __call__(self, batch: Tensor, psf: np.ndarray | None = None) -> Tensor:
        """Restore a batch.

        Args:
            batch: slices scaled to [0, 1], shape ``(N, C, X, Y)``.
            psf: the kernel that blurred them, shape ``(KX, KY)``, for methods that can use it.

        Returns:
            Same shape, dtype and device.
        """
        known: dict[str, Any] = {"psf": psf} if self.takes_psf else {}
        images = batch.detach().cpu().numpy().astype(np.float64)
        restored = [METHODS[self.method](image, **self.parameters, **known) for image in images]
        return torch.from_numpy(np.stack(restored)).to(batch)


def _measured_lines(size: int, fraction: float) -> int:
    """Count the lines of k-space that :func:`medrestore_monai.transforms.truncate_kspace` keeps."""
    return max(1, min(size, round(fraction * size)))


def _kernel(psf: np.ndarray | None, sigma: float) -> np.ndarray:
    """Return the known kernel, or a Gaussian, of odd sides, with a sum of 1."""
    if psf is None:
        offsets = np.arange(-int(np.ceil(3 * sigma)), int(np.ceil(3 * sigma)) + 1)
        line = np.exp(-(offsets**2) / (2 * sigma**2))
        psf = np.outer(line, line)
    psf = np.pad(np.asarray(psf, dtype=np.float64), [(0, 1 - size % 2) for size in psf.shape])
    return psf / psf.sum()


def _deconvolved(
    image: np.ndarray, kernel: np.ndarray, method: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Deconvolve each channel of ``(C, X, Y)``, mirrored at its borders."""
    margins = [min(size - 1, 2 * side) for size, side in zip(image.shape[1:], kernel.shape, strict=True)]
    padded = np.pad(image, [(0, 0), *((margin, margin) for margin in margins)], mode="reflect")
    restored = np.stack([method(_tapered(plane, kernel, margins), kernel) for plane in padded])
    x, y = margins
    return restored[:, x : x + image.shape[1], y : y + image.shape[2]]


def _tapered(plane: np.ndarray, kernel: np.ndarray, margins: Sequence[int]) -> np.ndarray:
    """Let the margins of ``(X, Y)`` go over into the opposite ones, blurred by ``kernel``.

    The methods see a periodic image; a jump from one end to the other would ring far into it.
    """
    around = [(side // 2, side // 2) for side in kernel.shape]
    blurred = fftconvolve(np.pad(plane, around, mode="wrap"), kernel, mode="valid")
    ramps = []
    for size, margin in zip(plane.shape, margins, strict=True):
        rise = np.sin(np.pi / 2 * np.arange(margin) / max(margin, 1)) ** 2
        ramps.append(np.concatenate([rise, np.ones(size - 2 * margin), rise[::-1]]))
    weight = np.outer(*ramps)
    tapered: np.ndarray = weight * plane + (1 - weight) * blurred
    return tapered
