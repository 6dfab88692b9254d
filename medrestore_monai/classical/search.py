"""The best parameters of a method: of a coarse grid, then halfway to its neighbors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from medrestore_monai.classical.methods import FALLING, GRIDS

Values = dict[str, float]
_Key = tuple[tuple[str, float], ...]


class Search:
    """Scores of settings, each tried once.

    Args:
        names: of the parameters to choose, keys of :data:`~medrestore_monai.classical.GRIDS`.
        score: of values; higher is better.
    """

    def __init__(self, names: Sequence[str], score: Callable[[Values], float]) -> None:
        self.names, self.score = list(names), score
        self.tried: dict[_Key, float] = {}

    def run(self) -> Values:
        """Try all of the grid, then halfway from the best to its neighbors; return the first of the best ones."""
        grid = itertools.product(*(GRIDS[name] for name in self.names))
        coarse = max((dict(zip(self.names, values, strict=True)) for values in grid), key=self._score)
        return max(between(coarse), key=self._score)

    def _score(self, values: Values) -> float:
        key = tuple(values.items())
        if key not in self.tried:
            self.tried[key] = self.score(values)
        return self.tried[key]


def between(values: Values) -> Iterator[Values]:
    """Give every value as it is, or halfway to the next one of its grid, in the logarithm."""
    choices = []
    for name, value in values.items():
        grid = GRIDS[name]
        at = grid.index(value)
        near = [(value * grid[i]) ** 0.5 for i in (at - 1, at + 1) if 0 <= i < len(grid)]
        choices.append([value, *(float(f"{one:.3g}") for one in near)])
    return (dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*choices))


def best_monotone(tried: Sequence[Mapping[_Key, float]]) -> list[Values]:
    """Choose values for each of several noise levels so that no parameter falls as the level rises.

    Those in :data:`~medrestore_monai.classical.methods.FALLING` do not rise.

    Args:
        tried: the scores of :class:`Search` at each level, in ascending order; with settings that all have in common.

    Returns:
        Of all such choices the one with the best mean score.
    """
    # best sum up to a level, and the way there, for each setting that was tried at it
    best: dict[_Key, tuple[float, list[_Key]]] = {(): (0.0, [])}
    for scores in tried:
        reached: dict[_Key, tuple[float, list[_Key]]] = {}
        for key, score in scores.items():
            before = [one for end, one in best.items() if _in_order(end, key)]
            if before:
                total, way = max(before, key=lambda one: one[0])
                reached[key] = (total + score, [*way, key])
        best = reached
    return [dict(key) for key in max(best.values(), key=lambda one: one[0])[1]]


def _in_order(lower: _Key, upper: _Key) -> bool:
    pairs = zip(lower, upper, strict=False)
    return all(a >= b if name in FALLING else a <= b for (name, a), (_, b) in pairs)
