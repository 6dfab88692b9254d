"""All that a training run needs to go on, in one file."""

import logging
import os
import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medrestore_monai.engines.loader import PROCESS, derived_seed
from medrestore_monai.files import atomic_file

logger = logging.getLogger(__name__)

_STEPS_BETWEEN_CHECKS = 20


class TrainingState:
    """Save all that a training run needs after every epoch, and go on from it when the run is started again.

    MONAI's ``CheckpointSaver`` deletes the last checkpoint before it writes the next one, and a resumed run forgets
    the best score; here a new file replaces the old one in one step, and ``best`` is part of it.

    Random states are not saved but set at the beginning of each epoch, from ``seed`` and its number: a run that was
    killed goes on as if it had not been, to the bit on a CPU. :class:`~medrestore_monai.engines.SeededLoader` does the
    same for the order of the data and their random transforms, also in the loader's workers. The state of mixed
    precision is the trainer's ``scaler``.

    Weights that are not finite end the run with a :class:`ValueError`, within 20 steps, and are never saved: the file
    holds the last good epoch.

    Args:
        path: the file; where it exists, :meth:`attach` loads it.
        objects: what is saved, by name: network, optimizer, scheduler, ``best``; each has a state dict. Networks are
            saved as one process has them, so that any number of processes can go on.
        resume: go on from an existing file; without it such a file is an error, so that no run is lost.
        seed: of the random numbers that Python, NumPy and PyTorch draw in training.
    """

    def __init__(
        self, path: str | os.PathLike[str], objects: Mapping[str, Any], resume: bool = True, seed: int = 0
    ) -> None:
        self.path = Path(path)
        self.objects = {name: plain_module(item) for name, item in objects.items()}
        self.resume = resume
        self.seed = seed
        self._scaler: dict[str, Any] = {}

    def attach(self, trainer: Engine) -> None:
        """Load what exists, then save after each of the trainer's epochs; attach last what others change there.

        Raises:
            FileExistsError: a state exists and ``resume`` is off.
            ValueError: the state is of another training, all of the trainer's epochs are done, or the processes that
                train together do not find the same file.
        """
        if self.path.exists():
            if not self.resume:
                raise FileExistsError(f"{self.path} holds a training run; resume it or name another output_dir.")
            self._load(trainer)
        if idist.get_world_size() > 1:
            epochs = [int(epoch) for epoch in idist.all_gather(float(trainer.state.epoch))]
            if len(set(epochs)) > 1:
                raise ValueError(f"every process must find the same {self.path}; they go on after epochs {epochs}.")
        trainer.add_event_handler(Events.STARTED, self._restore_scaler)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)
        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=_STEPS_BETWEEN_CHECKS), self._check)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._check)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _load(self, trainer: Engine) -> None:
        max_epochs = trainer.state.max_epochs
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            done = saved["trainer"]["epoch"]
            for name, item in self.objects.items():
                item.load_state_dict(saved[name])
            self._scaler = saved["scaler"]
        except (RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise ValueError(f"{self.path} is no state of this training: {error}") from error
        if done >= max_epochs:
            # Ignite would start again at the first epoch
            raise ValueError(f"{self.path} has done {done} epochs; set max_epochs to more than that to go on.")
        trainer.load_state_dict({**saved["trainer"], "max_epochs": max_epochs})
        logger.info("going on after epoch %d of %s", trainer.state.epoch, self.path)

    def _restore_scaler(self, trainer: Engine) -> None:
        # MONAI's trainers make theirs when they run; a disabled one has no state
        scaler = getattr(trainer, "scaler", None)
        if scaler is not None and self._scaler:
            scaler.load_state_dict(self._scaler)

    def _begin_epoch(self, trainer: Engine) -> None:
        seed = derived_seed(PROCESS, self.seed, trainer.state.epoch, idist.get_rank())
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        if trainer.state.dataloader is not None:
            trainer.set_data(trainer.state.dataloader)  # do not go on with the rest of the last epoch's order

    def _check(self, trainer: Engine) -> None:
        modules = (item for item in self.objects.values() if isinstance(item, nn.Module))
        numbers = [one for module in modules for one in module.state_dict().values() if one.is_floating_point()]
        if numbers and not torch.stack([one.isfinite().all() for one in numbers]).all():
            last = f"{self.path} holds the last good epoch" if self.path.exists() else "no epoch was finished"
            raise ValueError(
                f"the weights are no longer finite at step {trainer.state.iteration}; {last}. Look for images or "
                "losses that are not finite, or lower learning_rate."
            )

    def _save(self, trainer: Engine) -> None:
        state = {name: item.state_dict() for name, item in self.objects.items()}
        scaler = getattr(trainer, "scaler", None)
        state["scaler"] = {} if scaler is None else scaler.state_dict()
        state["trainer"] = {"epoch": trainer.state.epoch, "epoch_length": trainer.state.epoch_length}
        write_atomically(state, self.path)


def write_atomically(state: object, path: Path) -> None:
    """Save with ``torch.save``: the old file or the new one is there at any moment.

    Of several processes that train together, only the first one writes.

    Raises:
        OSError: the disk is full or read-only; the old file is still there.
    """
    if idist.get_rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, single_writer=True) as file:
            torch.save(state, file)


def plain_module(item: Any) -> Any:
    """Return the network within a ``DistributedDataParallel``; anything else as it is."""
    return item.module if isinstance(item, DistributedDataParallel) else item
