"""How many patches a second one core degrades, next to what a training takes.

    OMP_NUM_THREADS=1 python scripts/benchmark/degradations.py

A light training on a CPU takes some 5 patches a second and core; the base network on one GPU with 8 loading processes
some 60, so each process has to bring 8. Processor time is counted, not time on the wall: other work on the machine
does not matter. Nothing is asserted.
"""

import argparse
import time
from collections.abc import Mapping

import numpy as np
import torch
from monai.data import MetaTensor

from medrestore_monai.transforms import (
    CTNoiseMapd,
    RandCTLowDosed,
    RandDownSamplingd,
    RandGammad,
    RandGaussianBlurd,
    RandJPEGd,
    RandKSpaceTruncationd,
    RandLinearMotionBlurd,
    RandMotionBlurd,
    RandSensorNoised,
)
from medrestore_monai.transforms.pet.low_count import PETNoiseMapd, RandPETLowCountd

NEEDED = 8.0  # patches a second and loading process
TRANSFORMS = {
    "CT low dose, noise map given": RandCTLowDosed("hu"),
    "PET low count, noise map given": RandPETLowCountd("suv", noise_map_key="suv_map"),
    "k-space truncation": RandKSpaceTruncationd("hu", (0.2, 0.5)),
    "motion blur, 20 to 45 px": RandMotionBlurd("hu"),
    "linear motion blur, 3 to 9 px": RandLinearMotionBlurd("hu"),
    "Gaussian blur, 0.5 to 1.5 px": RandGaussianBlurd("hu"),
    "sensor noise": RandSensorNoised("hu", std=(5, 20)),
    "down-sampling, 2 to 4": RandDownSamplingd("hu"),
    "JPEG, quality 20 to 80": RandJPEGd("hu", lower=-1024.0, upper=3072.0),
    "gamma, 0.5 to 2": RandGammad("hu", lower=-1024.0, upper=3072.0),
    "k-space truncation, whole slice of 256x256": RandKSpaceTruncationd("slice", (0.2, 0.5)),
}


def make_item(size: int) -> dict[str, MetaTensor]:
    """A round body of 300 mm in HU and in SUV, cut down to a patch in its middle, with the maps of its noise."""
    x = (torch.arange(256) - 127.5) * 1.4
    inside = (x[:, None] ** 2 + x[None] ** 2 < 150**2)[None]
    noise = torch.from_numpy(np.random.RandomState(0).normal(0, 12, (1, 256, 256)).astype(np.float32))
    affine = torch.diag(torch.tensor([1.4, 1.4, 3.0, 1.0]))
    hu = MetaTensor(torch.where(inside, 50.0 + noise, torch.tensor(-1000.0)), affine=affine)
    suv = MetaTensor(torch.where(inside, 2.0 + noise / 50, torch.tensor(0.0)), affine=affine)
    item = {**CTNoiseMapd("hu")({"hu": hu}), **PETNoiseMapd("suv", noise_map_key="suv_map")({"suv": suv})}
    first = (256 - size) // 2
    patch = {key: image[:, first : first + size, first : first + size] for key, image in item.items()}
    return {**patch, "slice": hu}


def patches_per_second(transform: object, item: Mapping[str, MetaTensor], seconds: float) -> float:
    transform.set_random_state(0)
    transform(item)
    start, count = time.process_time(), 0
    while time.process_time() - start < seconds:
        transform(item)
        count += 1
    return count / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="side of the patches in pixels, at most 256")
    parser.add_argument("--seconds", type=float, default=2.0, help="processor time for each degradation")
    args = parser.parse_args()
    torch.set_num_threads(1)
    item = make_item(args.size)
    print(f"| degradation of {args.size}x{args.size} | patches/s on one core | times the {NEEDED:g}/s needed |")
    print("|---|---:|---:|")
    for name, transform in TRANSFORMS.items():
        rate = patches_per_second(transform, item, args.seconds)
        print(f"| {name} | {rate:.0f} | {rate / NEEDED:.0f} |", flush=True)


if __name__ == "__main__":
    main()
