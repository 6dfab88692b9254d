"""What must not get worse where no target says so: adapted against shipped weights, on the same noisy images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medrestore_monai.audit.faithfulness import measure_faithfulness
from medrestore_monai.audit.gain import measure_gain
from medrestore_monai.audit.noise import measure_noise
from medrestore_monai.audit.regions import body_mask, classes_of, smoothed
from medrestore_monai.audit.volume import Volume

MEAN = {"CT": 1.0, "PT": 0.02}  # HU; of PET relative
SIGNAL_GAIN = 0.05
MEAN_FREQUENCY = 0.10  # relative
KEPT = 0.05
_LEAST_VOXELS = 500
FLAGS = "regions changed beyond noise"


@dataclass(frozen=True)
class Guard:
    """One figure that must stay.

    Args:
        name: for people, with its unit.
        shipped: value of the shipped weights.
        adapted: of the adapted ones.
        tolerance: of their difference.
        upward_only: only a rise counts.
    """

    name: str
    shipped: float
    adapted: float
    tolerance: float
    upward_only: bool = False

    @property
    def held(self) -> bool:
        """Whether it stays."""
        difference = self.adapted - self.shipped
        return (difference if self.upward_only else abs(difference)) <= self.tolerance

    @property
    def reason(self) -> str:
        """What happened to it, as one sentence without its end."""
        return f"{self.name} goes from {self.shipped:.3g} to {self.adapted:.3g} (allowed {self.tolerance:.2g})"


def measure_guards(source: Volume, shipped: Volume, adapted: Volume, flags: bool = True) -> list[Guard]:
    """Compare adapted with shipped weights: tissue means, signal gain, frequency of the noise, unexplained changes.

    Args:
        source: the noisy input.
        shipped: restored by the shipped weights.
        adapted: restored by the adapted ones.
        flags: also count regions whose change noise does not explain, which takes the longest.

    Returns:
        The figures that could be measured.
    """
    guards = list(_means(source, shipped, adapted))
    gains = [[one.after for one in measure_gain(source, image).figures] for image in (shipped, adapted)]
    bands = ("low", "middle", "high")
    guards += [
        Guard(f"signal gain of {band} frequencies", before, after, SIGNAL_GAIN * max(before, 0.0))
        for band, before, after in zip(bands, *gains, strict=True)
        if before is not None and after is not None
    ]
    noises = [measure_noise(source, image) for image in (shipped, adapted)]
    if all("after" in noise.spectra for noise in noises):
        before, after = (noise.spectra["after"].mean_frequency for noise in noises)
        guards.append(Guard("mean frequency of noise in 1/mm", before, after, MEAN_FREQUENCY * before))
        if flags:
            pairs = zip((shipped, adapted), noises, strict=True)
            before, after = (float(measure_faithfulness(source, image, noise).count) for image, noise in pairs)
            guards.append(Guard(FLAGS, before, after, 0.0, upward_only=True))
    return guards


def guard_kept(shipped: float, adapted: float) -> Guard:
    """Guard the share of noise that passes."""
    return Guard("share of the noise kept", shipped, adapted, KEPT)


def _means(source: Volume, shipped: Volume, adapted: Volume) -> Iterator[Guard]:
    smooth = smoothed(source.array, source.pixel)
    body = body_mask(smooth, source.modality)
    for one in classes_of(smooth, body, source.modality):
        at = one.inside(smooth) & body
        if at.sum() < _LEAST_VOXELS:
            continue
        before, after = (float(image.array[at].mean()) for image in (shipped, adapted))
        relative = source.modality != "CT"
        tolerance = MEAN["PT"] * abs(before) if relative else MEAN["CT"]
        yield Guard(f"mean of {one.name} in {source.unit}", before, after, tolerance)


def failed(guards: list[Guard]) -> list[str]:
    """Return one reason for each guard that does not hold."""
    return [guard.reason for guard in guards if not guard.held and np.isfinite([guard.shipped, guard.adapted]).all()]
