"""Degradations that do not change from run to run or machine to machine, for validation and tests."""

import copy
import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, Transform
from torch import Tensor

from medrestore_monai.intensity import INTENSITY_RANGES
from medrestore_monai.neighbors import inner_slices
from medrestore_monai.transforms.ct.low_dose import CTLowDose, insert_ct_noise
from medrestore_monai.transforms.ct.noise import CTNoise, NoFlatTissueError
from medrestore_monai.transforms.ct.noise_measure import CTNoiseMapd, typical_noise
from medrestore_monai.transforms.ct.scan import matched_scan, simulate_ct_low_dose
from medrestore_monai.transforms.degradation import SLAB

LEAST, MOST = INTENSITY_RANGES["CT"].lower, INTENSITY_RANGES["CT"].upper  # HU
VOLUME_KEYS = ("name", "series_uid")
_NAME_KEYS = (*VOLUME_KEYS, "slice")


class FixedDegradationd(Transform):
    """Let a random degradation draw the same for an item in every run: the draw comes from the item's name.

    It is not random to MONAI, whose data sets may therefore cache what it makes.

    Args:
        transform: any ``Rand...d`` of this package, or a ``Compose`` of them; it stays as it is.
        seed: of all items; another one gives other draws.
        name_keys: keys of the item that, together, tell it from all others. Without ``slice``, all slices of a volume
            get the same draw.

    Raises:
        TypeError: the transform draws nothing.
        ValueError: on a call, if the item has none of ``name_keys``.
    """

    def __init__(self, transform: Randomizable, seed: int = 0, name_keys: Sequence[str] = _NAME_KEYS) -> None:
        if not isinstance(transform, Randomizable):
            raise TypeError(f"transform must draw at random, as a Rand...d does, got {type(transform).__name__}.")
        self.transform, self.seed, self.name_keys = transform, seed, tuple(name_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images degraded."""
        if not any(key in data for key in self.name_keys):
            raise ValueError(f"the item needs a name to draw from: none of {', '.join(self.name_keys)} is there.")
        transform = copy.deepcopy(self.transform)  # threads that fill a cache share ``self``
        transform.set_random_state(seed_of(data, self.name_keys, self.seed))
        degraded: dict[Hashable, Any] = transform(data)
        return degraded


class CTLowDosed(MapTransform):
    """Turn routine-dose CT slices or volumes into low-dose ones; the noise is drawn from the item's name.

    Each slice has noise of its own number, which is correlated with that of its neighbors: a volume, a slab of it that
    begins at ``start``, and its slices one by one, which ``slice`` numbers, get the same noise. Level and kernel are
    measured in each slice.

    The values used go to ``data["ct_low_dose"]``, as in :class:`~medrestore_monai.transforms.RandCTLowDosed`.

    Args:
        keys: whole routine-dose slices or volumes in HU, shape ``(1, X, Y[, Z])``.
        dose: fraction of the routine dose.
        level: factor on the noise level; 1.1 is about what real quarter-dose pairs of two patients have, see the notes
            on the simulation with the CT bundle.
        axial_correlation: of the noise of neighboring slices, in [0, 0.95]; 0 for independent slices.
        seed: of all items; another one gives other noise.
        name_keys: keys of the item that together identify its volume.
        exact: simulate ray by ray, in some 10 s for a slice of 512x512, instead of by the fast method; ``level`` then
            changes nothing, the photons are those that fit the slice's own noise, and slices are independent.
        fallback: noise of a slice with too little soft tissue to measure it; ``None`` for that of the other slices
            of the item, which differs between a volume and its parts.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: for a dose, level or correlation out of range; on a call, if no slice shows soft tissue.
    """

    def __init__(
        self,
        keys: KeysCollection,
        dose: float = 0.25,
        level: float = 1.1,
        axial_correlation: float = 0.3,
        seed: int = 0,
        name_keys: KeysCollection = VOLUME_KEYS,
        exact: bool = False,
        fallback: CTNoise | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.exact, self.fallback = exact, fallback
        self.usual = CTLowDose(dose=dose, level=level, axial_correlation=0.0 if exact else axial_correlation)
        self.seed, self.name_keys = seed, tuple(name_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images at low dose."""
        out = dict(data)
        scan = replace(self.usual, seed=seed_of(out, self.name_keys, self.seed))
        for key in self.key_iterator(out):
            image = out[key]
            slices = image.unbind(-1) if image.ndim == 4 else (image,)
            low_dose, fallback = [], self.fallback
            for one, number in zip(slices, slice_numbers(out, image), strict=True):
                try:
                    low_dose.append(self._simulate(one, number, scan, fallback))
                except NoFlatTissueError:
                    fallback = typical_noise([other.as_tensor() for other in slices], float(image.pixdim[0]))
                    low_dose.append(self._simulate(one, number, scan, fallback))
            values = torch.stack(low_dose, dim=-1) if image.ndim == 4 else low_dose[0]
            out[key] = MetaTensor(values).copy_meta_from(image)
        out["ct_low_dose"] = asdict(scan)
        return out

    def _simulate(self, image: MetaTensor, number: int, scan: CTLowDose, fallback: CTNoise | None) -> Tensor:
        """Simulate one slice."""
        noise_map = CTNoiseMapd("image", fallback=fallback)({"image": image})["noise_map"]
        cutoff, scale, spacing = (float(noise_map.meta[f"ct_noise_{n}"]) for n in ("cutoff", "scale", "spacing"))
        hu = image.as_tensor()
        if self.exact:
            geometry = matched_scan(CTNoise(std=0, scale=scale, cutoff=cutoff), spacing)
            low_dose = simulate_ct_low_dose(hu, scan.dose, geometry, slice_generator(scan.seed, number))
        else:
            low_dose, _ = insert_ct_noise(hu, noise_map.as_tensor(), cutoff, spacing, scan, numbers=[number])
        # outside of the scanned circle a scanner stores a constant; inside, nothing below -1024 HU. Metal stays, as it
        # does in a restoration
        return torch.where((hu <= LEAST) | (hu > MOST), hu, low_dose.clamp(min=LEAST))


def seed_of(data: Mapping[Hashable, Any], name_keys: Sequence[Hashable], seed: int) -> int:
    """A seed of 32 bits from the item's name: the same on every machine."""
    name = "/".join(str(data.get(key, "")) for key in name_keys)
    return zlib.crc32(f"{seed}/{name}".encode(errors="surrogateescape"))


def slice_numbers(data: Mapping[Hashable, Any], image: Tensor) -> Sequence[int]:
    """Numbers of the slices of an image ``(C, X, Y[, Z])`` in their volume, from 0 unless the item has others."""
    if image.ndim == 4 and SLAB in data:
        return [int(number) for number in data[SLAB]]
    first = int(data.get("slice") or data.get("start") or 0)
    if image.ndim == 3:
        return [first]
    first -= inner_slices(getattr(image, "meta", {}), image.shape[3]).start  # what was read with a slab begins before
    return range(first, first + image.shape[3])


def slice_generator(seed: int, number: int) -> np.random.RandomState:
    """What draws an exact simulation of one slice of a volume."""
    return np.random.RandomState(zlib.crc32(f"{seed}/{number}".encode()))
