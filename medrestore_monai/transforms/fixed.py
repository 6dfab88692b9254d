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

from medrestore_monai.intensity import INTENSITY_RANGES
from medrestore_monai.transforms.ct_low_dose import CTLowDose, CTNoiseMapd, insert_ct_noise
from medrestore_monai.transforms.ct_noise import CTNoise
from medrestore_monai.transforms.ct_scan import matched_scan, simulate_ct_low_dose

LEAST, MOST = INTENSITY_RANGES["CT"].lower, INTENSITY_RANGES["CT"].upper  # HU
_NAME_KEYS = ("name", "series_uid", "slice")


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
        transform.set_random_state(_seed_of(data, self.name_keys, self.seed))
        degraded: dict[Hashable, Any] = transform(data)
        return degraded


class CTLowDosed(MapTransform):
    """Turn routine-dose CT slices into low-dose ones; the noise is drawn from the item's name and slice number.

    The values used go to ``data["ct_low_dose"]``, as in :class:`~medrestore_monai.transforms.RandCTLowDosed`.

    Args:
        keys: whole routine-dose slices in HU, shape ``(1, X, Y)``.
        dose: fraction of the routine dose.
        level: factor on the noise level; 1.1 is about what real quarter-dose pairs of two patients have, see the notes
            on the simulation with the CT bundle.
        seed: of all items; another one gives other noise.
        name_keys: keys of the item that, together, tell it from all others.
        exact: simulate ray by ray, in some 10 s for a slice of 512x512, instead of by the fast method; ``level`` then
            changes nothing, and the photons are those that fit the slice's own noise.
        fallback: see :class:`~medrestore_monai.transforms.CTNoiseMapd`.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: for a dose or level out of range.
    """

    def __init__(
        self,
        keys: KeysCollection,
        dose: float = 0.25,
        level: float = 1.1,
        seed: int = 0,
        name_keys: KeysCollection = _NAME_KEYS,
        exact: bool = False,
        fallback: CTNoise | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.exact, self.fallback = exact, fallback
        self.usual, self.seed = CTLowDose(dose=dose, level=level), seed
        self.name_keys = tuple(name_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images at low dose."""
        out = dict(data)
        scan = replace(self.usual, seed=_seed_of(out, self.name_keys, self.seed))
        for key in self.key_iterator(out):
            image = out[key]
            noise_map = CTNoiseMapd(key, fallback=self.fallback)({key: image})["noise_map"]
            cutoff, scale, spacing = (float(noise_map.meta[f"ct_noise_{n}"]) for n in ("cutoff", "scale", "spacing"))
            if self.exact:
                geometry = matched_scan(CTNoise(std=0, scale=scale, cutoff=cutoff), spacing)
                generator = np.random.RandomState(scan.seed)
                low_dose = simulate_ct_low_dose(image.as_tensor(), scan.dose, geometry, generator)
            else:
                low_dose, _ = insert_ct_noise(image.as_tensor(), noise_map.as_tensor(), cutoff, spacing, scan)
            hu = image.as_tensor()
            # outside of the scanned circle a scanner stores a constant; inside, nothing below -1024 HU. Metal stays, as
            # it does in a restoration
            low_dose = torch.where((hu <= LEAST) | (hu > MOST), hu, low_dose.clamp(min=LEAST))
            out[key] = MetaTensor(low_dose).copy_meta_from(image)
        out["ct_low_dose"] = asdict(scan)
        return out


def _seed_of(data: Mapping[Hashable, Any], name_keys: Sequence[Hashable], seed: int) -> int:
    """A seed of 32 bits from the item's name: the same on every machine."""
    name = "/".join(str(data.get(key, "")) for key in name_keys)
    return zlib.crc32(f"{seed}/{name}".encode(errors="surrogateescape"))
