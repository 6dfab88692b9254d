"""Batches that depend on seed, epoch and place alone: not on workers or processes, nor on what was loaded before.

The random states of a training could be saved instead, but those of the loader's workers are out of reach.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import ignite.distributed as idist
import numpy as np
import torch
from monai.data import DataLoader
from monai.data.utils import set_rnd
from torch.utils.data import Dataset, DistributedSampler

# so that no two uses of one seed and epoch draw the same numbers
PROCESS, ORDER, ITEM = range(1, 4)

Drawn = tuple[int, int]  # index of an item, and the seed of its random transforms


def derived_seed(use: int, *numbers: int) -> int:
    """Return a seed in [0, 2^32) for one use of a training's seed, such as the order of its third epoch.

    Args:
        use: ``PROCESS``, ``ORDER`` or ``ITEM``.
        numbers: the training's seed, the epoch and so on, none negative.
    """
    return int(np.random.SeedSequence((use, *numbers)).generate_state(1)[0])


class EpochSampler(DistributedSampler):
    """Shuffle anew in each epoch, and again where an epoch is longer than the data; each process takes its share.

    With weights, a round draws as many items as there are, with replacement. The batches of all processes together are
    those of one process with the batch size of all. MONAI's engines call ``set_epoch``, as for every
    ``DistributedSampler``.

    Args:
        length: number of items; of several processes that do not divide it, some get an item twice.
        seed: of the order and of the items' random transforms.
        num_replicas: number of processes; by default those that there are.
        rank: which of them this is.
        weights: how often each item is drawn, relative to the others; by default once in a round.

    Raises:
        ValueError: there is no item, or the weights are not one for each item, finite, none negative and not all zero.
    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        if length < 1:
            raise ValueError(f"a training needs at least one item, got {length}.")
        if weights is not None:
            _check_weights(weights, length)
        replicas = idist.get_world_size() if num_replicas is None else num_replicas
        super().__init__(cast(Dataset, range(length)), replicas, idist.get_rank() if rank is None else rank, seed=seed)
        self.length = length
        self.weights = None if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        self.rounds = 0

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch."""
        super().set_epoch(epoch)
        self.rounds = 0

    def __iter__(self) -> Iterator[Drawn]:
        """Yield this process's items of one round through the data."""
        begin = (self.seed, self.epoch, self.rounds)
        self.rounds += 1
        generator = torch.Generator().manual_seed(derived_seed(ORDER, *begin))
        if self.weights is None:
            order = torch.randperm(self.length, generator=generator)
        else:
            order = torch.multinomial(self.weights, self.length, replacement=True, generator=generator)
        for place in range(self.rank, self.total_size, self.num_replicas):
            yield int(order[place % self.length]), derived_seed(ITEM, *begin, place)


def _check_weights(weights: Sequence[float], length: int) -> None:
    """Refuse weights that no items can be drawn by."""
    if len(weights) != length:
        raise ValueError(f"{length} items need as many weights, got {len(weights)}.")
    if not (all(0 <= weight < math.inf for weight in weights) and any(weights)):
        raise ValueError("weights must be finite, none negative and not all zero.")


class SeededLoader(DataLoader):
    """MONAI's ``DataLoader``, shuffled by :class:`EpochSampler`, with a seed for the random transforms of each item.

    Args:
        dataset: a dataset of MONAI's with a length, a ``ConcatDataset`` of such, or a ``Dataset`` whose data it is.
        batch_size: items per batch of one process.
        seed: see :class:`EpochSampler`.
        num_workers: processes that load.
        weights: see :class:`EpochSampler`.
        kwargs: for PyTorch's ``DataLoader``; neither ``shuffle`` nor ``sampler``.

    Raises:
        ValueError: see :class:`EpochSampler`.
    """

    def __init__(
        self,
        dataset: Sequence[Any],
        batch_size: int,
        seed: int = 0,
        num_workers: int = 0,
        weights: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        sampler = EpochSampler(len(dataset), seed, weights=weights)
        super().__init__(_SeededItems(dataset), num_workers, batch_size=batch_size, sampler=sampler, **kwargs)


class _SeededItems(Dataset):
    """The items of a dataset, each with random transforms drawn from its seed."""

    def __init__(self, dataset: Sequence[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, drawn: Drawn) -> Any:
        index, seed = drawn
        joined = getattr(self.dataset, "data", self.dataset)
        for part in getattr(joined, "datasets", [self.dataset]):
            set_rnd(getattr(part, "transform", part), seed)
        return self.dataset[index]
