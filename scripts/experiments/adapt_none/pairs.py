"""Crops of real pairs of quarter-dose and full-dose CT, with the measured noise: what verdicts without targets see."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_erosion, center_of_mass, median_filter, rotate
from skimage.restoration import denoise_bilateral
from torch import Tensor, nn

from medrestore_monai import Restorer
from medrestore_monai.adapt.noise_ct import CTNoiseModel
from medrestore_monai.adapt.noise_model import measure_noise
from medrestore_monai.adapt.risk import STEP, Risk
from medrestore_monai.audit.regions import body_mask, smoothed
from medrestore_monai.dicom import read_series

TISSUE = (-150.0, 250.0)  # HU, smoothed: what counts; the window of the scores is -160..240
_MARGIN = 8  # pixels

Operation = Callable[[Tensor, Tensor], Tensor]


def turned(volume: np.ndarray) -> np.ndarray:
    """Turn slices by 10 degrees with linear interpolation."""
    return rotate(volume, 10, reshape=False, order=1, mode="nearest")


def bilateral(volume: np.ndarray, spread: float) -> np.ndarray:
    """Smooth slices with noise of a standard deviation of ``spread`` HU by a weak bilateral filter."""
    slices = [denoise_bilateral(one + 1100, 5, 2.5 * spread, 1.5) - 1100 for one in np.moveaxis(volume, -1, 0)]
    return np.stack(slices, -1).astype(np.float32)


def median(volume: np.ndarray) -> np.ndarray:
    """Give slices the median of 3x3 pixels."""
    return np.asarray(median_filter(volume, (3, 3, 1)))


# what the command does not recognize in scans of a sharp kernel, see refused_data.py
CHANGES = {
    "median": lambda low, full, spread: (median(low), full),
    "bilateral": lambda low, full, spread: (bilateral(low, spread), full),
    "turned": lambda low, full, spread: (turned(low), turned(full)),
}


def shipped_network() -> nn.Module:
    parser = Restorer("ct_denoise_restore_rwkv", device="cpu").configured()
    network: nn.Module = parser.get_parsed_content("network")
    return network


def restore_with(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what restores a volume ``(1, X, Y, Z)`` in HU, slice by slice; values outside of the range pass by."""

    def restore(volume: Tensor) -> Tensor:
        given = ((volume + 1024) / 4096).clamp(0, 1)
        with torch.no_grad():
            slices = [network(one[None])[0] for one in given.unbind(-1)]
        return volume + (torch.stack(slices, dim=-1) - given) * 4096

    return restore


@dataclass(frozen=True, eq=False)
class Pair:
    """One slice of a patient, cropped; tensors ``(1, X, Y, 1)`` in HU."""

    patient: str
    kernel: str
    name: str
    low: Tensor
    full: Tensor
    mask: Tensor
    noise: CTNoiseModel


def read_pairs(folder: Path, kernel: str, side: int, most: int = 100, change: str = "") -> list[Pair]:
    """Read up to ``most`` slices of each patient, crops of ``side`` pixels around the middle of the body.

    Args:
        folder: of patients.
        kernel: of the series to read.
        side: of the crops.
        most: slices of each patient.
        change: one of :data:`CHANGES`, done to the images before anything is measured.
    """
    found = []
    for quarter in sorted(folder.glob(f"*/quarter_*{kernel}*")):
        low, full = (
            read_series(place, allow_gaps=True)
            for place in (quarter, quarter.with_name(quarter.name.replace("quarter", "full")))
        )
        spacing = np.linalg.norm(low.affine[:3, :3], axis=0)
        arrays = [np.asarray(one.array[..., :most], np.float32) for one in (low, full)]
        if change:
            original = measure_noise(torch.from_numpy(arrays[0].copy())[None], spacing, "CT")
            arrays = CHANGES[change](*arrays, float(original.std.median()))
        volume, target = (torch.from_numpy(np.ascontiguousarray(one))[None] for one in arrays)
        noise = replace(measure_noise(volume, spacing, "CT"), axial_width=0.0)  # slices are far apart
        print(quarter.parent.name, kernel, noise.check, f"cutoff {noise.cutoff:.2f}/mm", flush=True)
        smooth = smoothed(volume[0].numpy(), (spacing[0], spacing[1]))
        body = body_mask(smooth, "CT")
        for z in range(volume.shape[3]):
            tissue = (smooth[..., z] > TISSUE[0]) & (smooth[..., z] < TISSUE[1])
            inside = binary_erosion(body[..., z], iterations=_MARGIN) & tissue
            center = [round(middle) for middle in center_of_mass(body[..., z])]
            place = (*(slice(middle - side // 2, middle + side // 2) for middle in center), slice(z, z + 1))
            mask = torch.from_numpy(inside)[None, ..., None][:, place[0], place[1]].clone()
            mask[:, :_MARGIN] = mask[:, -_MARGIN:] = mask[:, :, :_MARGIN] = mask[:, :, -_MARGIN:] = False
            crops = (one[(slice(None), *place)].clone() for one in (volume, target))
            found.append(Pair(quarter.parent.name, kernel, str(z), *crops, mask, noise.cropped(place)))
    return found


class Probed:
    """A network's results for a pair and for both probes, kept so that what comes after it costs nothing."""

    def __init__(self, pair: Pair, restore: Callable[[Tensor], Tensor], seed: int) -> None:
        self.pair, self.result = pair, restore(pair.low)
        self.probes = []
        for noise in (pair.noise, pair.noise.of_family()):
            probe = noise.draw(torch.Generator().manual_seed(seed))
            moved = [(low, restore(low)) for low in (pair.low + STEP * probe, pair.low - STEP * probe)]
            self.probes.append((probe, moved, float(noise.std[pair.mask].double().square().mean())))

    def risks(self, operation: Operation) -> list[Risk]:
        """Return the figures of ``operation(image, network's result)`` for both spectra."""
        mask = self.pair.mask
        change = float((self.pair.low - operation(self.pair.low, self.result))[mask].double().square().mean())
        found = []
        for probe, moved, variance in self.probes:
            after = [operation(low, result)[mask].double() for low, result in moved]
            inside = probe[mask].double()
            passed = float((inside * (after[0] - after[1])).sum() / (2 * STEP) / inside.square().sum())
            found.append(Risk(change, passed, variance))
        return found

    def error(self, operation: Operation) -> float:
        """Return the mean square error against full dose."""
        mask = self.pair.mask
        return float((operation(self.pair.low, self.result) - self.pair.full)[mask].double().square().mean())


def nothing(_: Tensor, result: Tensor) -> Tensor:
    return result


def by_spectrum(risks: Sequence[list[Risk]]) -> list[list[Risk]]:
    """Turn figures of units into figures of spectra."""
    return [list(of_spectrum) for of_spectrum in zip(*risks, strict=True)]
