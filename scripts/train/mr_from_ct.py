"""Draw MR slices upon real CT anatomy: other contrasts and parts of the body, of which there is little real MR.

Each HU gets a signal by a curve that is drawn anew, dark fat or bright fat, dark fluid or bright fluid; coil shading,
noise and the scanner's interpolation follow. Such a slice has the edges of real anatomy, and is no measurement.
"""

import numpy as np
from pet_from_ct import body_mask
from scipy import ndimage
from skimage.restoration import denoise_tv_chambolle

# HU, range of signal there; between two of them the signal is linear
SIGNALS = (
    (-1000, (0.0, 0.02)),  # air
    (-850, (0.02, 0.15)),  # lung
    (-300, (0.05, 0.3)),  # its border
    (-120, (0.05, 1.0)),  # fat, suppressed or not
    (-70, (0.05, 1.0)),
    (0, (0.1, 1.0)),  # fluid
    (40, (0.15, 0.7)),  # muscle
    (75, (0.2, 0.9)),  # organs
    (160, (0.1, 1.0)),  # enhanced vessels, marrow
    (500, (0.02, 0.4)),
    (1200, (0.0, 0.1)),  # compact bone
)
PIXEL = (0.9, 1.8)  # mm
MEASURED = (0.5, 1.3)  # of the lines of k-space along an axis; from 1 on all of them
NOISE = (0.0, 0.015)  # of the brightest signal
BRIGHTEST = (1100, 3800)  # arbitrary units
CT_NOISE = 0.06  # weight of the total variation that takes CT noise away, in units of 200 HU


def mr_from_ct(hu: np.ndarray, spacing: float, random: np.random.RandomState) -> tuple[np.ndarray, float]:
    """Return a magnitude MR slice in arbitrary units, not negative, and its pixel size in mm.

    Args:
        hu: a CT slice in HU, shape ``(X, Y)``.
        spacing: its pixel size, mm.
        random: draws contrast, shading, pixel size, noise and how much of k-space was measured.
    """
    body = ndimage.binary_dilation(body_mask(hu), iterations=2)
    pixel = random.uniform(*PIXEL)
    smooth = denoise_tv_chambolle(np.where(body, hu, -1000).clip(-1000, 1200) / 200, CT_NOISE * random.uniform(0.5, 2))
    curve = np.interp(smooth * 200, *zip(*[(at, random.uniform(*among)) for at, among in SIGNALS], strict=True))
    field = ndimage.gaussian_filter(random.standard_normal(hu.shape), random.uniform(40, 90) / spacing)
    shaded = curve * np.exp(random.uniform(0, 0.4) * (field - field.mean()) / field.std())
    coarse = ndimage.gaussian_filter(shaded, 0.35 * max(pixel / spacing - 1, 0))
    signal = ndimage.zoom(coarse, spacing / pixel, order=1, mode="nearest", grid_mode=True)
    peak = max(float(np.percentile(signal, 99.9)), 1e-6)
    return (_measured(signal / peak, random) * random.uniform(*BRIGHTEST)).astype(np.float32), pixel


def _measured(signal: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Add complex noise and fill with zeros what was not measured of k-space, as scanners interpolate."""
    noise = random.standard_normal((2, *signal.shape)) * random.uniform(*NOISE)
    kspace = np.fft.fft2(signal + noise[0] + 1j * noise[1])
    for axis, lines in enumerate(signal.shape):
        far = np.abs(np.fft.fftfreq(lines)) > random.uniform(*MEASURED) / 2
        kspace[(slice(None), far) if axis else far] = 0
    return np.abs(np.fft.ifft2(kspace))
