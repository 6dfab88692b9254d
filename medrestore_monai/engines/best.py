"""What is decided by the score of a validation, across resumed runs: the best weights, and the end."""

import hashlib
import io
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.handlers import EarlyStopHandler
from torch import nn

from medrestore_monai.engines.state import plain_module
from medrestore_monai.files import atomic_file

logger = logging.getLogger(__name__)


class BestWeights:
    """Keep the weights with the highest score as a plain state dict, across resumed runs.

    Beside ``path`` stands a JSON file with the score and the SHA-256 of the weights it belongs to. It is written
    first: a run that is killed between both, or before its state is saved, still knows what its weights are worth.

    Args:
        network: what is saved.
        path: the weight file.
        metric: name of the score in the evaluator's metrics; larger is better.
    """

    def __init__(self, network: nn.Module, path: str | os.PathLike[str], metric: str) -> None:
        self.network = plain_module(network)
        self.path = Path(path)
        self.metric = metric
        self.score: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the best score so far."""
        return {"score": self.score}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the best score of an earlier run, or that of the weights if they were written after its state."""
        noted = self._noted_score()
        self.score = state["score"] if noted is None else noted

    def attach(self, evaluator: Engine) -> None:
        """Look at the score after each of the evaluator's runs."""
        evaluator.add_event_handler(Events.COMPLETED, self._keep)

    def _noted_score(self) -> float | None:
        try:
            note = json.loads(self.path.with_suffix(".json").read_text())
            same = note["sha256"] == hashlib.sha256(self.path.read_bytes()).hexdigest()
            return float(note[self.metric]) if same else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _keep(self, evaluator: Engine) -> None:
        score = float(evaluator.state.metrics[self.metric])
        if math.isnan(score) or (self.score is not None and score <= self.score):
            return
        self.score = score
        if idist.get_rank() == 0:
            self._write(score)
        logger.info("best %s so far: %.4f", self.metric, score)

    def _write(self, score: float) -> None:
        buffer = io.BytesIO()
        torch.save(self.network.state_dict(), buffer)
        weights = buffer.getvalue()
        note = {self.metric: score, "sha256": hashlib.sha256(weights).hexdigest()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.path.with_suffix(".json"), single_writer=True) as file:
            file.write((json.dumps(note, indent=2) + "\n").encode())
        with atomic_file(self.path, single_writer=True) as file:
            file.write(weights)


class EarlyStop(EarlyStopHandler):
    """MONAI's ``EarlyStopHandler`` with a state, so that a resumed run goes on counting; takes the same arguments."""

    def state_dict(self) -> dict[str, Any]:
        """Return how many validations brought nothing better, and what the best was.

        Raises:
            RuntimeError: no trainer has been set.
        """
        return dict(self._stopping().state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from a state.

        Raises:
            RuntimeError: no trainer has been set.
        """
        self._stopping().load_state_dict(state)

    def _stopping(self) -> Any:
        if self._handler is None:
            raise RuntimeError("EarlyStop needs its trainer before its state.")
        return self._handler
