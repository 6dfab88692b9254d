"""Noise power spectra of flat regions: of whole squares, or of islands where no square fits.

``NPS = dx dy / N^2 * mean |DFT(square - 2nd order fit)|^2`` (ICRU Report 87; AAPM TG-233, doi:10.1002/mp.13763). Its
sum over all frequencies, times the area of a frequency cell, is the variance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import find_objects, label

SIDE = 64  # pixels of a square, and of a tile that islands are detrended in
LEAST_SQUARES = 4
LEAST_FOR_PEAK = 12_000  # pixels of islands, for a peak within 0.02/mm
LEAST_FOR_CURVE = 2_100  # for a mean frequency within 2 %
LEAST = 256  # below, nothing
_TAPER = 32  # pixels of lag at which the autocorrelation ends
_PEAK = 0.85  # of the largest ring: those above take part in the fit of the peak
_LEAST_KEPT = 0.3  # of the power at a frequency, for the rest to be restored
_FIT_2ND_ORDER, _FIT_PLANE = 400, 60  # pixels of an island
_GRAINS = (0.0, *np.geomspace(0.3, 4.0, 60))  # pixels, standard deviations that are tried


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A noise power spectrum.

    Args:
        power: on the grid of ``numpy.fft.fftfreq``, shape ``(N, N)``, in unit^2 mm^2.
        pixel: size in mm.
        areas: variance of each square, or of the islands together.
        regions: how many squares; 0 for islands.
        pixels: that took part.
    """

    power: np.ndarray
    pixel: tuple[float, float]
    areas: np.ndarray
    regions: int
    pixels: int

    @property
    def cell(self) -> float:
        """Area of one frequency cell in 1/mm^2."""
        return float(np.prod([1 / (size * step) for size, step in zip(self.power.shape, self.pixel, strict=True)]))

    @property
    def radius(self) -> np.ndarray:
        """Frequency of each cell in 1/mm, shape ``(N, N)``."""
        return frequencies(self.power.shape, self.pixel)

    @property
    def area(self) -> float:
        """Integral over all frequencies: the variance."""
        return float(self.power.sum() * self.cell)

    @property
    def mean_frequency(self) -> float:
        """Mean frequency in 1/mm, weighted with the power of the two-dimensional spectrum."""
        total = float(self.power.sum())
        return float((self.radius * self.power).sum()) / total if total > 0 else 0.0

    def rings(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the frequencies in 1/mm, up to Nyquist, and the mean power of rings one cell wide."""
        return ring_means(self.power, self.pixel)

    @property
    def peak(self) -> float:
        """Frequency in 1/mm of the peak: of the parabola that fits the rings around the largest, smoothed 1-2-1."""
        frequency, power = self.rings()
        smooth = np.convolve(np.pad(power, 1, mode="edge"), (0.25, 0.5, 0.25), mode="valid")
        top = int(np.argmax(smooth[1:])) + 1  # the mean is not noise
        high = smooth >= _PEAK * smooth[top]
        first, last = top, top
        while first > 1 and (high[first - 1] or first == top):
            first -= 1
        while last < len(smooth) - 1 and (high[last + 1] or last == top):
            last += 1
        if last - first < 2:
            return float(frequency[top])
        bend, slope, _ = np.polyfit(frequency[first : last + 1], power[first : last + 1], 2)
        if bend >= 0:
            return float(frequency[top])
        return float(np.clip(-slope / (2 * bend), frequency[first], frequency[last]))

    @property
    def has_peak(self) -> bool:
        """Whether there are enough data for :attr:`peak`."""
        return bool(self.regions) or self.pixels >= LEAST_FOR_PEAK


def gaussian_spectrum(measured: Spectrum, width: float) -> Spectrum:
    """Return the Gaussian spectrum of noise that was measured in values over their local mean.

    A local mean follows coarse noise, so that dividing by it takes low frequencies away: what is left of the power is
    ``(1 - exp(-2 pi^2 width^2 f^2))^2``. White noise behind a Gaussian, as of PET behind its post filter, is fitted to
    what is left, by least squares.

    Args:
        measured: the spectrum.
        width: standard deviation of the Gaussian of the local mean, in mm.

    Returns:
        ``A exp(-4 pi^2 g^2 f^2)``, on the same grid.
    """
    squared = measured.radius**2
    left = (1 - np.exp(-2 * (np.pi * width) ** 2 * squared)) ** 2
    fits = []
    for grain in np.multiply(_GRAINS, float(np.mean(measured.pixel))):
        shape = np.exp(-4 * (np.pi * grain) ** 2 * squared)
        height = float((measured.power * shape * left).sum() / ((shape * left) ** 2).sum())
        fits.append((float(((measured.power - height * shape * left) ** 2).sum()), height * shape))
    fitted = replace(measured, power=min(fits, key=lambda one: one[0])[1])
    return replace(fitted, areas=measured.areas * (fitted.area / measured.area)) if measured.area > 0 else fitted


def frequencies(shape: tuple[int, ...], pixel: tuple[float, float]) -> np.ndarray:
    """Return the absolute frequency in 1/mm of each cell of a discrete Fourier transform."""
    axes = [np.fft.fftfreq(size, step) for size, step in zip(shape, pixel, strict=True)]
    return np.hypot(*np.meshgrid(*axes, indexing="ij"))


def ring_means(values: np.ndarray, pixel: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the frequencies of rings, one cell wide and up to Nyquist, and the means of ``values`` over them."""
    width = 1 / (min(values.shape) * max(pixel))
    radius = frequencies(values.shape, pixel)
    count = round(0.5 / max(pixel) / width) + 1
    ring = np.rint(radius / width).astype(int).ravel()
    kept = ring < count
    filled = np.bincount(ring[kept], minlength=count)
    sums = np.bincount(ring[kept], values.ravel()[kept], minlength=count)
    middle = np.bincount(ring[kept], radius.ravel()[kept], minlength=count)
    return middle / np.maximum(filled, 1), sums / np.maximum(filled, 1)


def find_squares(mask: np.ndarray, side: int = SIDE) -> list[tuple[slice, slice, int]]:
    """List half-overlapping squares that lie within a mask ``(X, Y, Z)``, as indices."""
    starts = [range(0, size - side + 1, side // 2) for size in mask.shape[:2]]
    found = [
        (slice(x, x + side), slice(y, y + side), z) for z in range(mask.shape[2]) for x in starts[0] for y in starts[1]
    ]
    return [square for square in found if mask[square].all()]


def spectrum_of_squares(
    values: np.ndarray, squares: list[tuple[slice, slice, int]], pixel: tuple[float, float]
) -> Spectrum:
    """Measure the mean spectrum of squares of an image ``(X, Y, Z)``."""
    regions = np.stack([values[square] for square in squares]).astype(np.float64)
    count, rows, columns = regions.shape
    basis = np.linalg.qr(_polynomials(np.indices((rows, columns)).reshape(2, -1), order=2))[0]
    flat = regions.reshape(count, -1)
    flat = flat - (flat @ basis) @ basis.T
    power = np.abs(np.fft.fft2(flat.reshape(regions.shape))) ** 2 * np.prod(pixel) / (rows * columns)
    mean = _without_loss(power.mean(axis=0), basis)
    return Spectrum(mean, pixel, flat.var(axis=1), count, len(squares) * rows * columns)


def _without_loss(power: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Give back what a fit took from the lowest frequencies, which would otherwise count as free of noise."""
    lost = sum(np.abs(np.fft.fft2(one.reshape(power.shape))) ** 2 for one in basis.T) / power.size
    whole = power / np.maximum(1 - lost, _LEAST_KEPT)
    radius = frequencies(power.shape, (1 / power.shape[0], 1 / power.shape[1]))
    around = (radius <= 2) & (lost <= 1 - _LEAST_KEPT)
    result: np.ndarray = np.where(lost > 1 - _LEAST_KEPT, whole[around].mean(), whole)
    return result


def spectrum_of_islands(values: np.ndarray, mask: np.ndarray, pixel: tuple[float, float]) -> Spectrum:
    """Measure the spectrum of all pixels of a mask ``(X, Y, Z)`` by their autocorrelation, whatever its shape.

    ``C(k) = sum m m' y y' / sum m m'`` over all pairs of pixels ``k`` apart, tapered to 0 at a lag of 32 pixels;
    the spectrum is its Fourier transform. Negative power, which is noise of the estimate, is kept: clipped, it
    would add to the area.
    """
    products = np.zeros((SIDE, SIDE))
    pairs = np.zeros((SIDE, SIDE))
    for index in range(mask.shape[2]):
        inside = mask[..., index]
        if inside.any():
            box = find_objects(inside.astype(np.uint8))[0]
            products += _lags(_detrended(values[..., index][box].astype(np.float64), inside[box]))
            pairs += _lags(inside[box].astype(np.float64))
    pairs = np.rint(pairs)
    lag = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIDE, 1 / SIDE)] * 2, indexing="ij"))
    taper = np.where(lag < _TAPER, np.cos(0.5 * np.pi * np.minimum(lag, _TAPER) / _TAPER) ** 2, 0.0)
    correlation = np.where(pairs > 0, products / np.maximum(pairs, 1), 0.0) * taper
    power = np.fft.fft2(correlation).real * np.prod(pixel)
    return Spectrum(power, pixel, correlation[:1, 0], 0, int(mask.sum()))


def _polynomials(at: np.ndarray, order: int) -> np.ndarray:
    """Return the polynomials up to an order of 0, 1 or 2 at the points ``at``, shape ``(2, n)``, as columns."""
    x, y = at - at.mean(axis=1, keepdims=True)
    terms = [np.ones_like(x), x, y, x * x, x * y, y * y]
    return np.stack(terms[: (1, 3, 6)[order]], axis=1)


def _detrended(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Take a fit from each island within a tile, of an order that its size allows; 0 outside of the mask."""
    out = np.zeros_like(values)
    for x in range(0, mask.shape[0], SIDE):
        for y in range(0, mask.shape[1], SIDE):
            tile = (slice(x, x + SIDE), slice(y, y + SIDE))
            islands, count = label(mask[tile])
            for number in range(1, count + 1):
                at = np.nonzero(islands == number)
                size = len(at[0])
                order = 2 if size >= _FIT_2ND_ORDER else 1 if size >= _FIT_PLANE else 0
                basis = np.linalg.qr(_polynomials(np.stack(at), order=order))[0]
                one = values[tile][at]
                # what the fit took of the noise is given back in variance
                lost = size / max(size - basis.shape[1], 1)
                out[tile][at] = (one - basis @ (basis.T @ one)) * np.sqrt(lost)
    return out


def _lags(values: np.ndarray) -> np.ndarray:
    """Sum the products of all pairs of pixels up to 32 apart, shape ``(64, 64)`` in the order of ``fftfreq``."""
    size = [max(extent + SIDE // 2, SIDE) for extent in values.shape]  # no lag wraps around
    full = np.fft.irfft2(np.abs(np.fft.rfft2(values, size)) ** 2, size)
    lag = np.fft.fftfreq(SIDE, 1 / SIDE).astype(int)
    return full[np.ix_(lag, lag)]
