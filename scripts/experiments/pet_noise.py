"""How near the noise that an audit states for PET comes to the truth, on phantoms of known noise.

    python scripts/experiments/pet_noise.py

Each phantom is an ellipse, even or with a slow change of uptake, and has noise of a known relative size behind a
Gaussian of ``grain`` pixels. "After" is that noise behind another Gaussian, of one pixel. Columns are ratios of what is
stated, and of what the spectrum without the fit would give, to the truth in the same flat pixels.
"""

import argparse

import numpy as np
from scipy.ndimage import gaussian_filter

from medrestore_monai.audit import Volume
from medrestore_monai.audit.noise import measure_noise

PHANTOMS = ((4.0, 1.0, 0.15), (4.0, 1.5, 0.15), (4.0, 1.5, 0.3), (4.0, 1.0, 0.3), (2.0, 2.5, 0.2), (5.0, 0.8, 0.2))
SHAPE = (96, 80, 12)


def phantom(rng: np.random.Generator, change: float) -> np.ndarray:
    """Return the uptake of an ellipse whose uptake varies by ``change``, relative standard deviation."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE[:2]], indexing="ij")
    inside = ((x / 0.85) ** 2 + (y / 0.7) ** 2 < 1)[..., None]
    slow = gaussian_filter(rng.standard_normal(SHAPE), (12, 12, 3))
    uptake = np.where(inside, 2 * (1 + change * slow / slow.std()), 0.05)
    return np.asarray(gaussian_filter(uptake, (1, 1, 0)))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rng = np.random.default_rng(0)
    print("| pixel, mm | grain, px | noise | change of uptake | before | after | before, no fit | after, no fit |")
    print("|---|---|---|---|---|---|---|---|")
    for pixel, grain, size in PHANTOMS:
        for change in (0.0, 0.15):
            uptake = phantom(rng, change)
            noise = gaussian_filter(rng.standard_normal(SHAPE), (grain, grain, 0.7))
            noise *= size / noise.std()
            parts = noise, gaussian_filter(noise, (1, 1, 0))
            source, restored = (Volume(uptake * (1 + part), "PT", (pixel, pixel, 3.0)) for part in parts)
            found = measure_noise(source, restored)
            truth = [part[..., found.slices][found.flat].std() for part in parts]
            stated = (found.figures[0].before or 0.0, found.figures[0].after or 0.0)
            unfitted = [max(found.spectra[name].area, 0) ** 0.5 for name in ("before", "after")]
            ratios = [f"{one / true:.2f}" for both in (stated, unfitted) for one, true in zip(both, truth, strict=True)]
            print(f"| {pixel:g} | {grain:g} | {size:g} | {change:g} | {' | '.join(ratios)} |", flush=True)


if __name__ == "__main__":
    main()
