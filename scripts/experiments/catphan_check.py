"""Compare the audit's noise spectrum and transfer function with a published toolbox, on a Catphan 504.

    python scripts/experiments/catphan_check.py measure SOURCE regions.npz
    ENV/bin/python scripts/experiments/catphan_check.py compare regions.npz     # pip install "pylinac>=3.43" (MIT)

SOURCE holds ``ct_phantom_catphan504_cbct``. ``measure`` takes 64 x 64 squares of the uniform slices and the rim of the
phantom as an edge to air. ``compare`` gives the same squares to pylinac's ``noise_power_spectrum_2d``, and to its
``EdgeSpreadFunctionMTF`` an edge spread function of its own, over the distance to a circle that fits the rim. It runs
in an environment of its own: pylinac is no dependency. Both spectra are averaged over the audit's rings. Its window is
Hann's, over the whole reach, which makes an edge look sharper; without a window the two must agree.

pylinac 3.43.2 on 40 squares, with the audit's trend of second order taken off: rings above 0.15/mm differ by -0.04 % on
average and 0.35 % at most, and its standard deviation is 16.95 HU to the audit's 17.05, which makes up for the power
that goes with the trend. With the mean alone taken off, as it does by itself: 17.27 HU, and a mean frequency of 0.525
to 0.537/mm. At the rim, 1000 HU: 50 and 10 % at 0.605 and 1.007/mm without a window, 0.612 and 1.017 with Hann's, to
the audit's 0.616 and 1.015, which is 1.7 and 0.8 % more than without a window.
"""

import sys
from pathlib import Path

import numpy as np

PIXEL, UNIFORM, SIDE = 0.48828125, 10, 64
CENTER, REACH, STEP = 60.0, 6.0, 0.05  # mm: squares within; of the edge
LEVEL = -500.0  # HU, halfway from air to the phantom
RADIUS = 100.0  # mm, of the phantom


def squares() -> list[tuple[slice, slice]]:
    """List the squares of a grid whose corners are near the middle of 512 x 512 pixels."""
    starts = range(256 - 2 * SIDE, 256 + 2 * SIDE, SIDE)
    places = [(x, y) for x in starts for y in starts]
    far = [max(np.hypot(x + a - 256, y + b - 256) for a in (0, SIDE) for b in (0, SIDE)) for x, y in places]
    return [
        (slice(x, x + SIDE), slice(y, y + SIDE))
        for (x, y), one in zip(places, far, strict=True)
        if one * PIXEL <= CENTER
    ]


def measure(source: Path, output: Path) -> None:
    from medrestore_monai.audit.edges import find_edge
    from medrestore_monai.audit.sharpness import edge_transfer
    from medrestore_monai.audit.spectrum import spectrum_of_squares

    stored = np.load(source / "ct_phantom_catphan504_cbct" / "slices.npz")["catphan504_OBI"]
    slices = stored[:UNIFORM].transpose(2, 1, 0).astype(np.float32) - 1000
    places = [(x, y, number) for number in range(UNIFORM) for x, y in squares()]
    spectrum = spectrum_of_squares(slices, places, (PIXEL, PIXEL))
    frequency, power = spectrum.rings()
    edge = find_edge(slices, (PIXEL, PIXEL), LEVEL, (-1100.0, -950.0), (-200.0, 200.0))
    transfer = None if edge is None else edge_transfer(edge, slices, (PIXEL, PIXEL))
    if transfer is None:
        raise ValueError(f"{source} shows no rim of the phantom.")
    np.savez(
        output,
        slices=slices,
        frequency=frequency,
        power=power,
        figures=[spectrum.area, spectrum.mean_frequency],
        transfer=[transfer.frequency, transfer.gain],
        halves=[transfer.at(0.5), transfer.at(0.1)],
    )


def detrended(square: np.ndarray) -> np.ndarray:
    """Take a polynomial of second order away, as the audit does."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    basis = np.stack([x**a * y**b for a in range(3) for b in range(3 - a)], axis=-1).reshape(-1, 6)
    fitted = basis @ np.linalg.lstsq(basis, square.ravel(), rcond=None)[0]
    return square - fitted.reshape(square.shape)


def rings_of(power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the frequency of each cell of a centered spectrum, in 1/mm, and the means over the audit's rings."""
    axis = np.fft.fftshift(np.fft.fftfreq(SIDE, PIXEL))
    radius = np.hypot(*np.meshgrid(axis, axis, indexing="ij"))
    ring = np.rint(radius * SIDE * PIXEL).astype(int).ravel()
    means = np.bincount(ring, power.ravel()) / np.bincount(ring)
    return radius, means[: SIDE // 2 + 1]


def edge_spread(image: np.ndarray) -> np.ndarray:
    """Return the values over the distance to the circle that fits the crossings of ``LEVEL``, air first."""
    above = image > LEVEL
    crossings = []
    for index, line in enumerate(above):
        inside = np.nonzero(line)[0]
        for at, before in ((inside[:1], -1), (inside[-1:], 1)):
            for one in at:
                if 0 <= one + before < len(line):
                    near, far = image[index, one], image[index, one + before]
                    crossings.append((index, one + before * (near - LEVEL) / (near - far)))
    x, y = np.array(crossings).T
    kept = np.abs(np.hypot(x - 256, y - 256) - RADIUS / PIXEL) < 10  # neither the table nor the end of the field
    for _ in range(5):
        solved = np.linalg.lstsq(np.c_[2 * x, 2 * y, np.ones_like(x)][kept], (x**2 + y**2)[kept], rcond=None)[0]
        radius = np.sqrt(solved[2] + solved[0] ** 2 + solved[1] ** 2)
        off = np.abs(np.hypot(x - solved[0], y - solved[1]) - radius)
        kept = off < max(3 * np.median(off), 0.2)
    grid = np.meshgrid(*[np.arange(size) for size in image.shape], indexing="ij")
    distance = (radius - np.hypot(grid[0] - solved[0], grid[1] - solved[1])) * PIXEL
    near = np.abs(distance) < REACH
    place = np.floor((distance[near] + REACH) / STEP).astype(int)
    count = np.bincount(place, minlength=round(2 * REACH / STEP))
    sums = np.bincount(place, image[near], minlength=len(count))
    return np.interp(np.arange(len(count)), np.nonzero(count)[0], sums[count > 0] / count[count > 0])


def compare(place: Path) -> None:
    from pylinac.core.mtf import EdgeSpreadFunctionMTF
    from pylinac.core.nps import noise_power_spectrum_2d
    from scipy.signal import windows

    held = np.load(place)
    slices, ours = held["slices"].astype(float), held["power"]
    parts = [slices[x, y, number] for number in range(UNIFORM) for x, y in squares()]
    cell = (1 / (SIDE * PIXEL)) ** 2
    print(f"{len(parts)} squares; audit: SD {held['figures'][0] ** 0.5:.2f} HU, mean {held['figures'][1]:.4f}/mm")
    for name, given in (("their mean taken off", parts), ("second order taken off", list(map(detrended, parts)))):
        power = noise_power_spectrum_2d(PIXEL, given)
        radius, theirs = rings_of(power)
        mean = (radius * power).sum() / power.sum()
        off = theirs / ours[: len(theirs)] - 1
        high = held["frequency"][: len(theirs)] > 0.15
        print(
            f"pylinac, {name}: SD {(power.sum() * cell) ** 0.5:.2f} HU, mean {mean:.4f}/mm; rings above 0.15/mm "
            f"differ by {100 * off[high].mean():+.2f} % on average, {100 * np.abs(off[high]).max():.2f} % at most"
        )
    print(f"audit, rim to air: 50 % at {held['halves'][0]:.4f}, 10 % at {held['halves'][1]:.4f}/mm")
    spreads = [edge_spread(slices[..., number]) for number in range(UNIFORM)]
    for name, window in (("Hann", windows.hann), ("no window", None)):
        found, of_mean = (
            EdgeSpreadFunctionMTF(one, STEP, windowing=window) for one in (spreads, [np.mean(spreads, axis=0)])
        )
        halves = [one.relative_resolution(percent) for one in (found, of_mean) for percent in (50, 10)]
        print(
            f"pylinac, {name}: 50 % at {halves[0]:.4f}, 10 % at {halves[1]:.4f}/mm; of the mean edge "
            f"{halves[2]:.4f}, {halves[3]:.4f}/mm"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"] and len(sys.argv) == 4:
        measure(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:2] == ["compare"] and len(sys.argv) == 3:
        compare(Path(sys.argv[2]))
    else:
        sys.exit(__doc__)
