"""Contrast recovery against background variability in the NEMA image-quality phantom: input, 3D Gaussians, a bundle.

    python scripts/experiments/nema_recovery.py PHANTOM [--bundle pet_synthesis_restore_rwkv] [-o curve.csv]

PHANTOM is the folder with ``slices.npz`` and ``meta.json``: one reconstruction, as it is; no counts are taken away. It
is scaled so that its background is 1 SUV. After NEMA NU 2: recovery is the mean of a disc of a sphere's diameter in the
slice of the spheres' centers, over the mean of 60 background discs of that diameter (12 in each of 5 slices, at 0, 1
and 2 cm on either side), less 1; variability is their standard deviation over their mean. The file does not state the
activities, so that recovery is relative to the middle of the 37 mm sphere of the input (a disc of 20 mm).
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates

from medrestore_monai import Restorer

DIAMETERS = (10, 13, 17, 22, 28, 37)  # mm, in their order around the circle
CIRCLE = 57.2  # mm, radius
WIDTHS = (2, 4, 6, 8, 10, 12)  # mm, full width at half maximum of the Gaussians
ROIS = 12  # in a slice
OFFSETS = (-20, -10, 0, 10, 20)  # mm, of the slices
PLATEAU = 20.0  # mm, diameter
WALL, MARGIN = 15.0, 12.0  # mm that a background disc keeps from the wall, and from spheres and lung insert
LUNG = 25.0  # mm, radius of the insert


def disc_mean(plane: np.ndarray, center: np.ndarray, diameter: float, pixel: float) -> float:
    """Return the mean of a disc; pixels count by the part of them that lies in it."""
    fine = (np.arange(-0.5, 0.5, 0.1) + 0.05) * pixel
    reach = int(np.ceil(diameter / 2 / pixel)) + 1
    first = np.round(center / pixel).astype(int) - reach
    steps = np.arange(2 * reach + 1)
    x, y = (((first[axis] + steps)[:, None] * pixel + fine - center[axis]).ravel() for axis in (0, 1))
    inside = (x[:, None] ** 2 + y**2 <= (diameter / 2) ** 2).reshape(len(steps), 10, len(steps), 10).mean(axis=(1, 3))
    part = plane[first[0] : first[0] + len(steps), first[1] : first[1] + len(steps)]
    return float((part * inside).sum() / inside.sum())


def find_spheres(volume: np.ndarray, spacing: tuple[float, float, float]) -> tuple[int, np.ndarray]:
    """Return the slice of the spheres' centers, and these in mm, shape ``(6, 2)``."""
    smooth = gaussian_filter(volume, [3.0 / step for step in spacing])
    body = smooth[..., smooth.shape[2] // 2] > 0.4 * np.median(smooth[smooth > 0.3 * smooth.mean()])
    middle = np.argwhere(body).mean(axis=0) * spacing[0]
    best: tuple[float, int, np.ndarray] | None = None
    top = [int(z) for z in np.argsort(smooth.max(axis=(0, 1)))[-7:]]
    shifts = np.arange(-24.0, 25.0, 4.0)
    for turn in np.arange(0, 360, 4.0):
        for sign in (1, -1):
            angle = np.deg2rad(turn + sign * 60 * np.arange(6))
            circle = CIRCLE * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            for z in top:
                for x in shifts:
                    for y in shifts:
                        centers = middle + circle + (x, y)
                        values = map_coordinates(smooth[..., z], (centers / spacing[0]).T, order=0)
                        score = float((values * np.array(DIAMETERS) ** 0.5).sum())
                        if best is None or score > best[0]:
                            best = score, z, centers
    return best[1], best[2]


def background_places(shape: tuple[int, int], body: np.ndarray, spheres: np.ndarray, pixel: float) -> np.ndarray:
    """Choose 12 places for discs of 37 mm, as far from each other as possible; in mm, shape ``(12, 2)``."""
    grid = np.stack(np.meshgrid(*(np.arange(size) * pixel for size in shape), indexing="ij"), axis=-1)
    free = distance_transform_edt(body) * pixel > WALL + 37 / 2
    for center, diameter in zip(spheres, DIAMETERS, strict=True):
        free &= np.linalg.norm(grid - center, axis=-1) > diameter / 2 + 37 / 2 + MARGIN / 2
    free &= np.linalg.norm(grid - spheres.mean(axis=0), axis=-1) > LUNG + 37 / 2 + MARGIN / 2
    candidates = grid[free]
    chosen = [candidates[0]]
    while len(chosen) < ROIS:
        distance = np.min([np.linalg.norm(candidates - one, axis=1) for one in chosen], axis=0)
        chosen.append(candidates[int(distance.argmax())])
    return np.array(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("phantom", type=Path)
    parser.add_argument("--bundle", default="pet_synthesis_restore_rwkv")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    meta = json.loads((options.phantom / "meta.json").read_text())[0]
    stored = np.load(options.phantom / "slices.npz")[meta["key"]]
    volume = np.ascontiguousarray(stored.transpose(2, 1, 0)).astype(np.float32)  # (X, Y, Z)
    pixel, spacing = meta["pixel_mm"][0], (*meta["pixel_mm"], float(meta["thickness"]))
    z, spheres = find_spheres(volume, spacing)
    planes = [z + round(offset / spacing[2]) for offset in OFFSETS]
    smooth = gaussian_filter(volume, [6.0 / step for step in spacing])
    level = np.median(smooth[..., z][smooth[..., z] > 0.4 * np.median(smooth[..., z][smooth[..., z] > smooth.mean()])])
    body = smooth[..., z] > 0.5 * level
    places = background_places(volume.shape[:2], body, spheres, pixel)
    first, last = max(min(planes) - 8, 0), min(max(planes) + 9, volume.shape[2])
    volume, planes, z = volume[..., first:last], [one - first for one in planes], z - first
    volume /= np.mean([disc_mean(volume[..., plane], place, 37, pixel) for plane in planes for place in places])
    images = {"input": volume}
    for width in WIDTHS:
        images[f"Gaussian {width} mm"] = gaussian_filter(volume, [width / 2.3548 / step for step in spacing])
    images[options.bundle] = np.asarray(Restorer(options.bundle)(volume, modality="PT", spacing=spacing))
    plateau = disc_mean(volume[..., z], spheres[-1], PLATEAU, pixel) - 1
    print(f"37 mm sphere over background in the input: {plateau + 1:.2f}")
    rows = []
    for name, image in images.items():
        row = {"image": name}
        for center, diameter in zip(spheres, DIAMETERS, strict=True):
            rois = [disc_mean(image[..., plane], place, diameter, pixel) for plane in planes for place in places]
            contrast = (disc_mean(image[..., z], center, diameter, pixel) / np.mean(rois) - 1) / plateau
            row[f"Q_{diameter}"], row[f"N_{diameter}"] = (
                round(contrast, 3),
                round(np.std(rois, ddof=1) / np.mean(rois), 4),
            )
        rows.append(row)
        cells = [f"{row[f'Q_{d}']:.2f} / {100 * row[f'N_{d}']:.1f} %" for d in DIAMETERS]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if options.output:
        with options.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
