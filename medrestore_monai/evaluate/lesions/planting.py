"""Plant lesions in the images of an evaluation: in clean ones before they are degraded, in both images of a pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import Tensor

from medrestore_monai.evaluate.cases import Source, image_of
from medrestore_monai.evaluate.lesions.kinds import LesionKind
from medrestore_monai.evaluate.lesions.sphere import sphere

Load = Callable[[Mapping[Any, Any]], Mapping[Any, Any]]


@dataclass(frozen=True)
class Site:
    """The center of a lesion.

    Args:
        slice: number of the slice in its volume.
        x: first index of the pixel.
        y: second index.
    """

    slice: int
    x: int
    y: int


class PlantingLoad:
    """Load an item, add the lesions of its image, and degrade it.

    A lesion is a sphere that reaches into neighboring slices where there are such; its relative contrast is to the mean
    of the clean slice of its center, over its own disc.

    Args:
        load: reads an item, with ``label`` and perhaps ``image``, of shape ``(C, X, Y[, Z])``.
        degrade: makes ``image`` of ``label``, or leaves a pair as it is.
        kind: of all lesions.
        sites: by image, see :func:`~medrestore_monai.evaluate.cases.image_of`.
    """

    def __init__(
        self, load: Load, degrade: Load, kind: LesionKind, sites: Mapping[tuple[str, ...], Sequence[Site]]
    ) -> None:
        self.load, self.degrade, self.kind, self.sites = load, degrade, kind, sites
        self._levels: dict[tuple[tuple[str, ...], Site], float] = {}

    def __call__(self, item: Mapping[Any, Any]) -> Mapping[Any, Any]:
        """Return the item with ``image`` and ``label``."""
        key = image_of(dict(item))
        loaded = dict(self.load(item))
        first = int(item.get("slice") or 0)
        spacing = spacing_of(loaded["label"])
        shape = sphere(self.kind, spacing)
        for site in self.sites.get(key, ()):
            if abs(site.slice - first) > shape.shape[2] // 2 and loaded["label"].ndim == 3:
                continue
            level = self._level(key, site, item, loaded) if self.kind.is_relative else 1.0
            for name in ("label", "image"):
                if name in loaded:
                    loaded[name] = _added(loaded[name], self.kind.contrast * level * shape, site, first)
        return self.degrade(loaded)

    def _level(self, key: tuple[str, ...], site: Site, item: Mapping[Any, Any], loaded: Mapping[Any, Any]) -> float:
        """Return the mean of the clean slice over the disc of a lesion."""
        if (key, site) not in self._levels:
            own = int(item.get("slice") or 0) == site.slice or loaded["label"].ndim == 4
            label = (loaded if own else self.load({**item, "slice": site.slice}))["label"]
            plane = label.as_subclass(Tensor)[0] if label.ndim == 3 else label.as_subclass(Tensor)[0, ..., site.slice]
            step = spacing_of(label)
            x, y = (torch.arange(size) - at for size, at in zip(plane.shape, (site.x, site.y), strict=True))
            distance = (x[:, None] * step[0]) ** 2 + (y * step[1]) ** 2
            self._levels[key, site] = float(plane[distance <= (self.kind.diameter / 2) ** 2].mean())
        return self._levels[key, site]


def planted(
    source: Source, load: Load, degrade: Load, kind: LesionKind, sites: Mapping[tuple[str, ...], Sequence[Site]]
) -> Source:
    """Return a source whose images have lesions; the arguments are those of :class:`PlantingLoad`."""
    return replace(source, load=Compose([PlantingLoad(load, degrade, kind, sites)]))


def spacing_of(image: Tensor) -> tuple[float, float, float]:
    """Return the size of the voxels in mm; 1 where it is unknown."""
    affine = image.affine if isinstance(image, MetaTensor) else torch.eye(4)
    x, y, z = affine[:3, :3].norm(dim=0).tolist()
    return float(x), float(y), float(z)


def _added(image: Tensor, lesion: np.ndarray, site: Site, first: int) -> Tensor:
    """Add a lesion to a slice or volume; what lies outside of it is left out."""
    values = image.as_subclass(Tensor).clone()
    volume = values[..., None] if values.ndim == 3 else values  # (C, X, Y, Z)
    starts = [site.x - lesion.shape[0] // 2, site.y - lesion.shape[1] // 2, site.slice - first - lesion.shape[2] // 2]
    spans = [
        (max(start, 0), min(start + size, length))
        for start, size, length in zip(starts, lesion.shape, volume.shape[1:], strict=True)
    ]
    if all(low < high for low, high in spans):
        own = tuple(slice(low - start, high - start) for (low, high), start in zip(spans, starts, strict=True))
        there = (slice(None), *(slice(low, high) for low, high in spans))
        volume[there] += torch.from_numpy(np.ascontiguousarray(lesion[own])).to(volume)
    return MetaTensor(values).copy_meta_from(image) if isinstance(image, MetaTensor) else values
