"""Compare the fast PET low-count simulation with the exact one on real slices: noise level, place, spectrum, skewness.

Both insert noise into the same full-count slice. The exact one draws Poisson counts and reconstructs them by OSEM; the
noise of many repetitions is compared per range of activity. Also shows how many counts the real slices themselves seem
to have, from the difference of slices 8 mm apart in flat tissue, and how many patches a second the fast one makes.

    python scripts/calibrate/pet_low_count.py --data DATA --repeats 8
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from medrestore_monai.dicom import read_series, suv_factor
from medrestore_monai.transforms.pet.low_count import PETLowCount, RandPETLowCountd, insert_pet_noise
from medrestore_monai.transforms.pet.noise import COUNTS, body_mask, pet_noise, pet_noise_map
from medrestore_monai.transforms.pet.scan import PETScan, scan_pet, simulate_pet_low_count

EDGES = (0.1, 0.3, 0.7, 1.5, 3.0, 6.0, 30.0)  # SUV
LEAST = 40  # pixels of a range of activity that are enough to compare


def whole_body(folder: Path) -> tuple[np.ndarray, float, float]:
    """The whole-body series in SUV, its pixel size and slice distance in mm."""
    series = read_series(next(path for path in folder.iterdir() if path.is_dir()))
    return series.array * suv_factor(series.datasets), series.spacing[0], series.spacing[2]


def crops(folder: Path, count: int) -> list[tuple[str, torch.Tensor, float]]:
    """The slice of the greatest activity of some crops."""
    found = []
    for path in sorted(folder.glob("*/PET.nii.gz"))[:: max(1, 40 // count)][:count]:
        image = nib.load(path)
        volume = np.asarray(image.dataobj, dtype=np.float32)
        best = int(volume.sum(axis=(0, 1)).argmax())
        found.append(
            (path.parent.name, torch.from_numpy(volume[..., best].copy())[None], float(image.header["pixdim"][1]))
        )
    return found


def rms(noise: torch.Tensor, mask: torch.Tensor) -> float:
    """Standard deviation of repeated noise, shape ``(R, X, Y)``, in the masked pixels."""
    return float((noise - noise.mean(dim=0))[:, mask].square().mean().sqrt()) * (len(noise) / (len(noise) - 1)) ** 0.5


def radial_power(noise: torch.Tensor, body: torch.Tensor, spacing: float) -> tuple[np.ndarray, float]:
    """Radial mean of the noise power spectrum in tiles of the body, scaled to sum 1, and its mean frequency, 1/mm."""
    tile = 48 if min(noise.shape[1:]) > 96 else 20
    window = torch.outer(torch.hann_window(tile), torch.hann_window(tile))
    power = torch.zeros(tile, tile)
    for x in range(0, noise.shape[1] - tile + 1, max(1, tile // 2)):
        for y in range(0, noise.shape[2] - tile + 1, max(1, tile // 2)):
            if body[x : x + tile, y : y + tile].mean() > 0.7:
                part = noise[:, x : x + tile, y : y + tile]
                power += torch.fft.fft2((part - part.mean(dim=0)) * window).abs().square().sum(dim=0)
    if not bool(power.any()):  # no tile fits into the body
        return np.full(tile // 2, np.nan), float("nan")
    frequency = torch.hypot(torch.fft.fftfreq(tile)[:, None], torch.fft.fftfreq(tile)[None])
    ring = (frequency * tile).round().long().flatten().numpy()
    profile = (np.bincount(ring, power.flatten().numpy()) / np.bincount(ring))[: tile // 2]
    mean = float((power * frequency).sum() / power.sum()) / spacing
    return profile / profile.sum(), mean


def compare(name: str, suv: torch.Tensor, spacing: float, drf: float, width: float, repeats: int) -> list[float]:
    """Print one line for a slice, and return the ratios of the standard deviations."""
    random = np.random.RandomState(0)
    scan = PETScan(spacing, width=width)
    start = time.process_time()
    exact = torch.cat([simulate_pet_low_count(suv, drf, scan, random) for _ in range(repeats)])
    took = (time.process_time() - start) / repeats
    noise_map = pet_noise_map(suv, spacing)
    fast = torch.cat(
        [
            insert_pet_noise(suv, noise_map, spacing, PETLowCount(drf, width=width, updates=scan.updates, seed=seed))[0]
            for seed in range(repeats)
        ]
    )
    body = body_mask(suv, spacing)[0]
    ratios, cells = [], []
    for low, high in pairwise(EDGES):
        mask = (suv[0] >= low) & (suv[0] < high) & (body > 0)
        if int(mask.sum()) < LEAST:
            cells.append("    -")
            continue
        ratios.append(rms(fast, mask) / rms(exact, mask))
        cells.append(f"{ratios[-1]:5.2f}")
    in_body = body > 0
    relative = [(image - suv)[:, in_body] / suv[:, in_body] for image in (exact, fast)]
    skew = [float((r**3).mean() / (r**2).mean() ** 1.5) for r in relative]
    bias = [float((image - suv)[:, in_body].mean() / suv[:, in_body].mean()) for image in (exact, fast)]
    (exact_profile, exact_mean), (fast_profile, fast_mean) = (
        radial_power(image - suv, body, spacing) for image in (exact, fast)
    )
    same = np.corrcoef(exact_profile, fast_profile)[0, 1] if np.isfinite(exact_mean) else float("nan")
    print(
        f"{name:12s} {drf:4.0f} {width:4.1f} mm | {' '.join(cells)} | {same:.3f}  {exact_mean:.4f} {fast_mean:.4f} | "
        f"{skew[0]:5.2f} {skew[1]:5.2f} | {100 * bias[0]:+5.2f} {100 * bias[1]:+5.2f} % | {took:.1f} s",
        flush=True,
    )
    return ratios


def compare_decimation(suv: torch.Tensor, spacing: float, drf: float, repeats: int) -> None:
    """The noise between low- and full-count OSEM images of list-mode decimation, and the fast one on the full image."""
    random, scan = np.random.RandomState(1), PETScan(spacing)
    exact, fast = [], []
    for seed in range(repeats):
        low, full = scan_pet(suv, drf, scan, random)
        exact.append(low - full)
        fast.append(insert_pet_noise(full, None, spacing, PETLowCount(drf, seed=seed))[0] - full)
    body = body_mask(suv, spacing)[0] > 0
    masks = [(suv[0] >= low) & (suv[0] < high) & body for low, high in pairwise(EDGES)]
    ratio = [rms(torch.cat(fast), m) / rms(torch.cat(exact), m) for m in masks if int(m.sum()) >= LEAST]
    print(f"  decimated counts, both by OSEM from a uniform start, DRF {drf:g}:", " ".join(f"{r:.2f}" for r in ratio))


def own_counts(volume: np.ndarray, spacing: float, distance: float, width: float) -> float:
    """Counts per SUV and mm^2 that would leave the noise which flat tissue of the volume has."""
    apart, found = max(1, round(8 / distance)), []
    for number in range(0, volume.shape[2] - apart, 15):
        first, second = (torch.from_numpy(volume[..., n].copy())[None] for n in (number, number + apart))
        mean = (first + second) / 2
        smooth = torch.nn.functional.avg_pool2d(mean, 5, stride=1, padding=2)
        slope = torch.stack(torch.gradient(smooth[0])).square().sum(dim=0).sqrt() / smooth[0].clamp(min=0.1)
        flat = (slope < 0.03) & (smooth[0] > 0.4) & (smooth[0] < 4)
        if int(flat.sum()) < 2 * LEAST:
            continue
        unit = pet_noise(
            torch.zeros(mean.shape[1] + 16, mean.shape[2] + 16), mean, pet_noise_map(mean, spacing), spacing, 32, width
        )[1]
        difference = ((first - second) / 2**0.5 / unit)[0][flat]
        found.append((1.4826 * float((difference - difference.median()).abs().median())) ** -2)
    return float(np.median(found)) if found else float("nan")


def speed(suv: torch.Tensor, spacing: float) -> None:
    """Patches of 128x128 a second of processor time on one core."""
    torch.set_num_threads(1)
    affine = torch.diag(torch.tensor([spacing, spacing, 3.0, 1.0], dtype=torch.float64))
    patch = MetaTensor(suv[:, 20:148, 20:148].clone(), affine=affine)
    noise_map = MetaTensor(pet_noise_map(suv, spacing)[:, 20:148, 20:148].clone())
    draw = RandPETLowCountd("image", "label", spacing=spacing).set_random_state(0)
    for name, item in {"map computed": {}, "map given": {"noise_map": noise_map}}.items():
        best = float("inf")
        for _ in range(5):
            start = time.process_time()
            for _ in range(20):
                draw({"image": patch, "label": patch, **item})
            best = min(best, (time.process_time() - start) / 20)
        print(f"  {name}: {1 / best:.0f} patches of 128x128 a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with pet_fdg_headneck and sts_pet_crops")
    parser.add_argument("--repeats", type=int, default=8, help="of the noise, for each slice")
    parser.add_argument("--crops", type=int, default=6, help="how many crops to compare")
    arguments = parser.parse_args()
    volume, spacing, distance = whole_body(arguments.data / "pet_fdg_headneck")
    slices = {f"body {n}": torch.from_numpy(volume[..., n].copy())[None] for n in (30, 90, 170, 260)}
    speed(slices["body 90"], spacing)
    print(f"own noise of the whole-body series, as of counts: {own_counts(volume, spacing, distance, 7.0):.0f}")
    found = []
    for path in sorted((arguments.data / "sts_pet_crops").glob("*/PET.nii.gz")):
        image = nib.load(path)
        zooms = image.header["pixdim"]
        found.append(own_counts(np.asarray(image.dataobj, dtype=np.float32), float(zooms[1]), float(zooms[3]), 5.0))
    print("own noise of the crops, as of counts, quartiles:", np.nanpercentile(found, [25, 50, 75]).round())
    print(f"{COUNTS:g} counts per SUV and mm^2, 4 iterations of 8 subsets. SD fast / exact for SUV", EDGES)
    print("slice        DRF  filter | ratio of SD per range of SUV        | NPS: same, mean 1/mm | skew | bias | exact")
    ratios = []
    for name, suv in slices.items():
        for drf, width in ((4, 5.0), (12, 7.0)):
            ratios += compare(name, suv, spacing, drf, width, arguments.repeats)
    compare_decimation(slices["body 90"], spacing, 12, arguments.repeats)
    for name, suv, pixel in crops(arguments.data / "sts_pet_crops", arguments.crops):
        ratios += compare(name, suv, pixel, 12, 5.0, 6 * arguments.repeats)
    inside = np.mean([0.9 <= ratio <= 1.1 for ratio in ratios])
    print(f"all: median {np.median(ratios):.3f}, within 10 %: {100 * inside:.0f} % of {len(ratios)}")


if __name__ == "__main__":
    main()
