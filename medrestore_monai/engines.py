"""What MONAI's and Ignite's handlers leave open: training that can be killed at any moment and goes on."""

import json
import logging
import math
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

logger = logging.getLogger(__name__)


def write_atomically(state: object, path: Path) -> None:
    """Save with ``torch.save`` beside ``path`` and rename into place: a kill leaves the old file or the new one.

    Of several processes that train together, only the first one writes.

    Raises:
        OSError: the disk is full or read-only; the old file is still there.
    """
    if idist.get_rank() > 0:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class TrainingState:
    """Save all that a training run needs after every epoch, and go on from it when the run is started again.

    MONAI's ``CheckpointSaver`` deletes the last checkpoint before it writes the next one, and a resumed run forgets
    the best score; here a new file replaces the old one in one step, and ``best`` is part of it.

    Args:
        path: the file; where it exists, :meth:`attach` loads it.
        objects: what is saved, by name: network, optimizer, scheduler, ``best``; each has a state dict.
        resume: go on from an existing file; without it such a file is an error, so that no run is lost.
    """

    def __init__(self, path: str | os.PathLike[str], objects: Mapping[str, Any], resume: bool = True) -> None:
        self.path = Path(path)
        self.objects = dict(objects)
        self.resume = resume

    def attach(self, trainer: Engine) -> None:
        """Load what exists, then save after each of the trainer's epochs.

        Raises:
            FileExistsError: a state exists and ``resume`` is off.
            ValueError: the state is of another training, or all of the trainer's epochs are done.
        """
        if self.path.exists():
            if not self.resume:
                raise FileExistsError(f"{self.path} holds a training run; resume it or name another output_dir.")
            self._load(trainer)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _load(self, trainer: Engine) -> None:
        max_epochs = trainer.state.max_epochs
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            done = saved["trainer"]["epoch"]
            for name, item in self.objects.items():
                item.load_state_dict(saved[name])
        except (RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise ValueError(f"{self.path} is no state of this training: {error}") from error
        if done >= max_epochs:
            # Ignite would start again at the first epoch
            raise ValueError(f"{self.path} has done {done} epochs; set max_epochs to more than that to go on.")
        trainer.load_state_dict({**saved["trainer"], "max_epochs": max_epochs})
        logger.info("going on after epoch %d of %s", trainer.state.epoch, self.path)

    def _save(self, trainer: Engine) -> None:
        state = {name: item.state_dict() for name, item in self.objects.items()}
        state["trainer"] = {"epoch": trainer.state.epoch, "epoch_length": trainer.state.epoch_length}
        write_atomically(state, self.path)


class BestWeights:
    """Keep the weights with the highest score as a plain state dict, across resumed runs.

    Beside ``path`` stands a JSON file with the score.

    Args:
        network: what is saved.
        path: the weight file.
        metric: name of the score in the evaluator's metrics; larger is better.
    """

    def __init__(self, network: nn.Module, path: str | os.PathLike[str], metric: str) -> None:
        self.network = network
        self.path = Path(path)
        self.metric = metric
        self.score: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the best score so far."""
        return {"score": self.score}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the best score of an earlier run."""
        self.score = state["score"]

    def attach(self, evaluator: Engine) -> None:
        """Look at the score after each of the evaluator's runs."""
        evaluator.add_event_handler(Events.COMPLETED, self._keep)

    def _keep(self, evaluator: Engine) -> None:
        score = float(evaluator.state.metrics[self.metric])
        if math.isnan(score) or (self.score is not None and score <= self.score):
            return
        self.score = score
        write_atomically(self.network.state_dict(), self.path)
        if idist.get_rank() == 0:
            self.path.with_suffix(".json").write_text(json.dumps({self.metric: score}, indent=2) + "\n")
        logger.info("best %s so far: %.4f", self.metric, score)
