"""What a batch holds depends on seed, epoch and place; not on workers, processes, or what came before."""

import pytest
import torch
from monai.data import CacheDataset, Dataset
from monai.transforms import Compose, Lambdad, RandGaussianNoised, RandScaleIntensityd
from torch.utils.data import ConcatDataset

from medrestore_monai.engines import EpochSampler, SeededLoader, derived_seed


def dataset(count=7):
    items = [{"image": torch.full((1, 2, 2), float(number))} for number in range(count)]
    random = [RandGaussianNoised("image", prob=1.0, std=0.1), RandScaleIntensityd("image", 0.1, prob=0.5)]
    return CacheDataset(items, Compose([Lambdad("image", lambda image: image + 1), *random]), progress=False)


def batches(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return [batch["image"] for batch in loader]


@pytest.mark.slow
def test_an_epoch_is_the_same_whatever_came_before_and_whatever_loads():
    first = SeededLoader(dataset(), 3, seed=5)
    early, late = batches(first, 1), batches(first, 2)
    for workers in (0, 2):
        torch.manual_seed(workers)
        again = SeededLoader(dataset(), 3, seed=5, num_workers=workers)
        torch.testing.assert_close(batches(again, 2), late, rtol=0, atol=0)
    assert not torch.equal(torch.cat(early), torch.cat(late))
    assert not torch.equal(torch.cat(batches(SeededLoader(dataset(), 3, seed=6), 2)), torch.cat(late))


def test_each_round_through_the_data_has_all_of_them_in_another_order():
    sampler = EpochSampler(7, seed=1)
    sampler.set_epoch(4)
    rounds = [list(sampler) for _ in range(3)]
    assert all(sorted(index for index, _ in drawn) == list(range(7)) for drawn in rounds)
    assert len({tuple(index for index, _ in drawn) for drawn in rounds}) == 3
    assert len({seed for drawn in rounds for _, seed in drawn}) == 21
    sampler.set_epoch(4)
    assert list(sampler) == rounds[0]


@pytest.mark.parametrize("weights", [None, [1, 0, 2, 3, 4, 5, 6]])
@pytest.mark.parametrize("ranks", [2, 3, 9])
def test_the_shares_of_processes_are_the_items_of_one(ranks, weights):
    shares = [EpochSampler(7, 1, ranks, rank, weights) for rank in range(ranks)]
    for sampler in shares:
        sampler.set_epoch(2)
    one = EpochSampler(7, 1, 1, 0, weights)
    one.set_epoch(2)
    together = [item for places in zip(*shares, strict=True) for item in places]  # all have the same count
    assert together[:7] == list(one)
    assert {index for index, _ in together[7:]} <= set(range(7))


@pytest.mark.slow
def test_items_are_drawn_as_often_as_their_weights_say():
    weights = [1, 1, 2, 0, 4]
    sampler = EpochSampler(5, 3, weights=weights)
    sampler.set_epoch(1)
    rounds = [list(sampler) for _ in range(2000)]
    counts = torch.bincount(torch.tensor([index for drawn in rounds for index, _ in drawn]), minlength=5)
    assert counts[3] == 0
    # five standard deviations of 10000 draws
    torch.testing.assert_close(counts / 10000, torch.tensor(weights) / 8, rtol=0, atol=0.025)
    assert len({seed for drawn in rounds[:100] for _, seed in drawn}) == 500  # also of an item drawn twice


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", [False, True])
def test_joined_datasets_are_balanced_and_seeded_whatever_loads(wrapped):
    parts = ConcatDataset([dataset(2), dataset(9)])
    weights = [1 / len(part) for part in parts.datasets for _ in range(len(part))]
    expected = batches(SeededLoader(parts, 3, seed=5, weights=weights), 2)
    parts = Dataset(parts) if wrapped else parts
    early, late = (batches(SeededLoader(parts, 3, seed=5, weights=weights), epoch) for epoch in (1, 2))
    assert sum(len(batch) for batch in late) == 11
    torch.testing.assert_close(late, expected, rtol=0, atol=0)
    for workers in (0, 2):
        torch.manual_seed(workers)
        again = SeededLoader(parts, 3, seed=5, num_workers=workers, weights=weights)
        torch.testing.assert_close(batches(again, 2), late, rtol=0, atol=0)
    assert not torch.equal(torch.cat(early), torch.cat(late))


def test_seeds_of_different_uses_differ():
    assert len({derived_seed(use, 0, epoch, 0) for use in (1, 2, 3) for epoch in range(100)}) == 300
    assert derived_seed(1, 0, 1) != derived_seed(1, 1, 0)


def test_no_items_are_refused():
    with pytest.raises(ValueError, match="at least one item, got 0"):
        SeededLoader([], 2)


@pytest.mark.parametrize("weights", [[1, -1], [0, 0], [1, float("nan")], [1, float("inf")]])
def test_weights_that_no_item_can_be_drawn_by_are_refused(weights):
    with pytest.raises(ValueError, match="finite, none negative and not all zero"):
        EpochSampler(2, weights=weights)


def test_weights_of_other_items_are_refused():
    with pytest.raises(ValueError, match="2 items need as many weights, got 3"):
        EpochSampler(2, weights=[1, 1, 1])
