"""Low-dose CT that is the same in every run, for validation and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from torch import Tensor

from medrestore_monai.intensity import INTENSITY_RANGES
from medrestore_monai.transforms.ct.low_dose import CTLowDose, insert_ct_noise
from medrestore_monai.transforms.ct.noise import CTNoise, NoFlatTissueError
from medrestore_monai.transforms.ct.noise_measure import CTNoiseMapd, typical_noise
from medrestore_monai.transforms.ct.scan import matched_scan, simulate_ct_low_dose
from medrestore_monai.transforms.degradation import NumberedDegradationd, slice_generator

__all__ = ["SimulateCTLowDosed"]

LEAST, MOST = INTENSITY_RANGES["CT"].lower, INTENSITY_RANGES["CT"].upper  # HU


class SimulateCTLowDosed(NumberedDegradationd):
    """Turn routine-dose CT slices or volumes into low-dose ones, inside a ``FixedDegradationd``.

    Each slice has noise of its own number, which is correlated with that of its neighbors. Level and kernel are
    measured in each slice.

    The values used go to ``data["ct_low_dose"]``, as in :class:`~medrestore_monai.transforms.RandCTLowDosed`.

    Args:
        keys: whole routine-dose slices or volumes in HU, shape ``(1, X, Y[, Z])``.
        dose: fraction of the routine dose.
        level: factor on the noise level; 1.1 is about what real quarter-dose pairs of two patients have, see the notes
            on the simulation with the CT bundle.
        axial_correlation: of the noise of neighboring slices, in [0, 0.95]; 0 for independent slices.
        exact: simulate ray by ray, in some 10 s for a slice of 512x512, instead of by the fast method; ``level`` then
            changes nothing, the photons are those that fit the slice's own noise, and slices are independent.
        fallback: noise of a slice with too little soft tissue to measure it; ``None`` for that of the other slices
            of the item, which differs between a volume and its parts.
        allow_missing_keys: as in MONAI.

    Raises:
        ValueError: for a dose, level or correlation out of range; on a call, if no slice shows soft tissue.
    """

    record = "ct_low_dose"

    def __init__(
        self,
        keys: KeysCollection,
        dose: float = 0.25,
        level: float = 1.1,
        axial_correlation: float = 0.3,
        exact: bool = False,
        fallback: CTNoise | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.exact, self.fallback = exact, fallback
        self.usual = CTLowDose(dose=dose, level=level, axial_correlation=0.0 if exact else axial_correlation)

    def values(self, seed: int) -> dict[str, Any]:
        """Return the fields of :class:`~medrestore_monai.transforms.CTLowDose`."""
        return asdict(replace(self.usual, seed=seed))

    def degraded(self, image: MetaTensor, numbers: Sequence[int], seed: int) -> MetaTensor:
        """Return the image at low dose."""
        scan = replace(self.usual, seed=seed)
        slices = image.unbind(-1) if image.ndim == 4 else (image,)
        low_dose, fallback = [], self.fallback
        for one, number in zip(slices, numbers, strict=True):
            try:
                low_dose.append(self._simulate(one, number, scan, fallback))
            except NoFlatTissueError:
                fallback = typical_noise([other.as_tensor() for other in slices], float(image.pixdim[0]))
                low_dose.append(self._simulate(one, number, scan, fallback))
        values = torch.stack(low_dose, dim=-1) if image.ndim == 4 else low_dose[0]
        return MetaTensor(values).copy_meta_from(image)

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
