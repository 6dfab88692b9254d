"""Two degradations for one training: that of the images it adapts to, and that which the network knows already."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.transforms import Randomizable, RandomizableTransform

__all__ = ["AnchoredDegradationd"]


class AnchoredDegradationd(RandomizableTransform):
    """Degrade an item as the images of a site are or, for a share of the items, as in the first training.

    The latter are marked by ``data["anchor"]``; :class:`~medrestore_monai.engines.Anchor` keeps the network as it was
    on them.

    Args:
        transform: a random degradation.
        known: that of the first training.
        share: of the items that ``known`` degrades, in [0, 1].

    Raises:
        ValueError: the share is out of range.
        TypeError: one of the two draws nothing.
    """

    def __init__(self, transform: Any, known: Any, share: float = 1 / 3) -> None:
        super().__init__(1.0)
        if not 0 <= share <= 1:
            raise ValueError(f"share must be in [0, 1], got {share}.")
        for one in (transform, known):
            if not isinstance(one, Randomizable):
                raise TypeError(f"both must draw at random, as a Rand...d does, got {type(one).__name__}.")
        self.transform, self.known, self.share = transform, known, share
        self._is_anchor = False

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> AnchoredDegradationd:
        """Set the state of both degradations, too."""
        super().set_random_state(seed, state)
        for one in (self.transform, self.known):
            one.set_random_state(seed=int(self.R.randint(2**31 - 1)))
        return self

    def randomize(self, data: Any = None) -> None:
        """Draw which of the two it is."""
        super().randomize(None)
        self._is_anchor = bool(self.R.random_sample() < self.share)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a degraded copy of ``data``, with ``anchor``."""
        self.randomize(None)
        out = dict((self.known if self._is_anchor else self.transform)(data))
        out["anchor"] = self._is_anchor
        return out
