"""The measured noise of quarter-dose CT beside that of the pairs: spectrum in flat tissue, and level over the slice.

    python scripts/experiments/adapt_none/noise_of_pairs.py PAIRS [--kernel D45] [--most 2]

PAIRS is that of ``null_candidates.py``. The noise of a quarter-dose slice is 4/3 of the variance of its difference to
full dose, where full dose shares a quarter of it. The first table gives noise power spectra in HU^2 mm^2 and their
ratios to that of the pairs: of the slice itself, which anatomy adds to, of drawn noise, and of the family of spectra
before its correction. The second gives, over blocks of 64 pixels in tissue, the variance of the pairs over the
measured one.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pairs import TISSUE
from scipy.ndimage import binary_erosion, uniform_filter

from medrestore_monai.adapt.noise_model import measure_noise
from medrestore_monai.audit.regions import smoothed
from medrestore_monai.audit.spectrum import spectrum_of_islands
from medrestore_monai.dicom import read_series
from medrestore_monai.transforms.ct.noise import flat_soft_tissue

_BLOCK = 64  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--kernel", default="D45")
    parser.add_argument("--most", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for quarter in sorted(options.pairs.glob(f"*/quarter_*{options.kernel}*")):
        full = quarter.with_name(quarter.name.replace("quarter", "full"))
        low, routine = (read_series(place, allow_gaps=True) for place in (quarter, full))
        spacing = np.linalg.norm(low.affine[:3, :3], axis=0)
        volume = torch.from_numpy(np.ascontiguousarray(low.array[..., : options.most])).float()[None]
        image = volume[0].numpy()
        added = image - routine.array[..., : options.most]
        noise = replace(measure_noise(volume, spacing, "CT"), axial_width=0.0)
        print(quarter.parent.name, options.kernel, noise.check)
        flat = np.stack([flat_soft_tissue(one[0], spacing[0]).numpy() for one in volume.unbind(-1)], -1)
        drawn = [one.draw(torch.Generator().manual_seed(3))[0].numpy() for one in (noise, noise.of_family())]
        pixel = (spacing[0], spacing[1])
        (frequency, own), *others = (spectrum_of_islands(one, flat, pixel).rings() for one in (image, added, *drawn))
        pairs, *others = (power for _, power in others)
        pairs = pairs * 4 / 3
        for at in range(3, len(frequency), 2):
            ratios = [f"{power[at] / pairs[at]:.2f}" for power in (own, *others)]
            print(f"{frequency[at]:.2f}/mm, pairs {pairs[at]:.0f}, ratio of slice, drawn, family: {', '.join(ratios)}")
        smooth = smoothed(image, pixel)
        for z in range(options.most):
            tissue = binary_erosion((smooth[..., z] > TISSUE[0]) & (smooth[..., z] < TISSUE[1]), iterations=6)
            share = uniform_filter(tissue.astype(float), _BLOCK)
            measured = uniform_filter(noise.std[0, ..., z].numpy() ** 2 * tissue, _BLOCK)
            true = uniform_filter(added[..., z] ** 2 * 4 / 3 * tissue, _BLOCK)
            start = _BLOCK // 2
            ratio = (true / np.maximum(measured, 1e-9))[start::_BLOCK, start::_BLOCK]
            ratio = ratio[share[start::_BLOCK, start::_BLOCK] > 0.5]
            print(
                f"slice {z}: variance of pairs over measured, {len(ratio)} blocks: median {np.median(ratio):.2f}, "
                f"10 % {np.quantile(ratio, 0.1):.2f}, 90 % {np.quantile(ratio, 0.9):.2f}"
            )


if __name__ == "__main__":
    main()
