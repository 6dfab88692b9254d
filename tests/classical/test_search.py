"""The search finds the best of a grid and between; tables over noise levels never fall."""

import itertools

import numpy as np
import pytest

from medrestore_monai.classical import GRIDS, Search, best_monotone


@pytest.mark.parametrize("best", [0.9, 1.2, 3.1])
def test_search_goes_halfway_to_the_neighbors_of_the_best(best):
    search = Search(["sigma"], lambda values: -abs(np.log(values["sigma"] / best)))
    grid = GRIDS["sigma"]
    fine = [*grid, *(float(f"{(a * b) ** 0.5:.3g}") for a, b in itertools.pairwise(grid))]
    assert search.run()["sigma"] == min(fine, key=lambda value: abs(np.log(value / best)))
    assert len(search.tried) <= len(grid) + 2


def test_each_setting_is_tried_once_and_two_parameters_together():
    calls = []

    def score(values):
        calls.append(tuple(values.items()))
        return -abs(values["sigma"] - 1.4) - abs(values["amount"] - 0.5)

    assert Search(["sigma", "amount"], score).run() == {"sigma": 1.4, "amount": 0.5}
    assert len(set(calls)) == len(calls) == len(GRIDS["sigma"]) * len(GRIDS["amount"]) + 8


def tried(scores):
    return [{(("h", value),): score for value, score in level.items()} for level in scores]


def test_a_table_is_monotone_and_the_best_of_all_monotone_ones():
    rng = np.random.default_rng(0)
    grid = (0.1, 0.2, 0.4, 0.8)
    for _ in range(20):
        scores = rng.random((3, 4))
        chosen = best_monotone(tried([dict(zip(grid, row, strict=True)) for row in scores]))
        ours = sum(scores[level][grid.index(values["h"])] for level, values in enumerate(chosen))
        monotone = [way for way in itertools.product(range(4), repeat=3) if list(way) == sorted(way)]
        assert ours == pytest.approx(max(sum(scores[level][at] for level, at in enumerate(way)) for way in monotone))
        assert [values["h"] for values in chosen] == sorted(values["h"] for values in chosen)


def test_of_two_parameters_none_falls():
    def level(best):
        return {(("a", a), ("b", b)): -((a - best[0]) ** 2) - (b - best[1]) ** 2 for a in range(4) for b in range(4)}

    assert best_monotone([level((0, 1)), level((2, 3))]) == [{"a": 0, "b": 1}, {"a": 2, "b": 3}]
    low, high = best_monotone([level((3, 0)), level((1, 2))])
    assert low["a"] <= high["a"]
    assert low["b"] <= high["b"]


def test_what_undoes_blur_does_not_rise_with_the_noise():
    def level(best):
        return {(("amount", value),): -abs(value - best) for value in (0.25, 0.5, 1.0, 2.0)}

    falling = best_monotone([level(2.0), level(0.5)])
    assert falling == [{"amount": 2.0}, {"amount": 0.5}]
    low, high = best_monotone([level(0.5), level(2.0)])
    assert low["amount"] >= high["amount"]
