"""What a training from weights that are there needs: a time limit, an anchor, few parameters, clipped gradients."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents, default_prepare_batch
from torch import Tensor, nn

from medrestore_monai.engines.state import plain_module

__all__ = ["Anchor", "ClipGradients", "TimeLimit", "trained_parameters"]

ANCHOR = "anchor"


def trained_parameters(network: nn.Module, which: str = "all") -> list[nn.Parameter]:
    """Return the parameters that a training changes; the others are frozen.

    Args:
        network: changed in place.
        which: ``all``, or ``gains``: those with one dimension, which are gains, shifts and biases. A few images are
            enough for them.

    Raises:
        ValueError: there is no such choice, or the network has no gains.

    References:
        Mohan et al., Adaptive denoising via GainTuning, https://arxiv.org/abs/2107.12815
    """
    if which not in ("all", "gains"):
        raise ValueError(f"trained must be all or gains, got {which!r}.")
    for parameter in network.parameters():
        parameter.requires_grad_(which == "all" or parameter.ndim <= 1)
    chosen = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not chosen:
        raise ValueError(f"{type(network).__name__} has no parameters of one dimension: train all.")
    return chosen


class ClipGradients:
    """Scale the gradients of each step down to a norm; MONAI's ``SupervisedTrainer`` cannot.

    Args:
        limit: the largest norm of all gradients together.

    Raises:
        ValueError: the limit is not above 0.
    """

    def __init__(self, limit: float = 1.0) -> None:
        if not limit > 0:
            raise ValueError(f"limit must be above 0, got {limit}.")
        self.limit = limit

    def attach(self, trainer: Engine) -> None:
        """Act between the backward pass and the step of the optimizer."""
        trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _clip(self, trainer: Any) -> None:
        scaler = getattr(trainer, "scaler", None)
        if scaler is not None and scaler.is_enabled():
            scaler.unscale_(trainer.optimizer)
        groups = trainer.optimizer.param_groups
        nn.utils.clip_grad_norm_([one for group in groups for one in group["params"]], self.limit)


class Anchor:
    """Keep a network near what it was on some items of each batch; for ``prepare_batch`` of MONAI's trainers.

    The target of items that ``anchor`` marks becomes what the network gave when the training began.

    Args:
        network: what is trained.

    References:
        Li and Hoiem, Learning without forgetting, https://arxiv.org/abs/1606.09282
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = plain_module(network)
        self._first: nn.Module | None = None

    def attach(self, trainer: Engine) -> None:
        """Remember the network as it is, with its first weights; attach it before a state that is resumed."""
        self._first = copy.deepcopy(self.network).eval().requires_grad_(False)

    def __call__(
        self, batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **options: Any
    ) -> tuple[Tensor, Any]:
        """Return the images and targets of a batch, on ``device``.

        Raises:
            RuntimeError: the network was not remembered.
        """
        image, target = default_prepare_batch(batchdata, device, non_blocking, **options)
        marked = batchdata.get(ANCHOR)
        if marked is None or not bool(torch.as_tensor(marked).any()):
            return image, target
        if self._first is None:
            raise RuntimeError("the anchor must be attached before the training.")
        places = torch.as_tensor(marked, dtype=torch.bool, device=image.device)
        with torch.no_grad():
            kept = self._first(image[places])
        target = target.clone()
        target[places] = kept.to(target)
        return image, target


class TimeLimit:
    """Plan the steps of a training by its time, and end it in any case when the time is over.

    The first steps of a run that has no plan yet are timed. Warm-up and these steps do not depend on the plan, so that
    a run with the planned number of steps from the beginning makes the same weights. The plan and the time that was
    used are part of the state.

    Args:
        scheduler: a ``WarmupCosineSchedule``, whose ``t_total`` is set.
        minutes: of the training; ``None`` for no limit.
        share: of the time that the steps may take, the rest is for validation.
        skipped: steps that are not timed.
        timed: steps that are.

    Raises:
        ValueError: for values out of range.
    """

    def __init__(
        self, scheduler: Any, minutes: float | None = None, share: float = 0.8, skipped: int = 2, timed: int = 8
    ) -> None:
        if minutes is not None and not minutes > 0:
            raise ValueError(f"minutes must be above 0, got {minutes}.")
        if not 0 < share <= 1 or skipped < 0 or timed < 1:
            raise ValueError(f"share must be in (0, 1], steps not negative, got {share}, {skipped} and {timed}.")
        self.scheduler, self.share, self.skipped, self.timed = scheduler, share, skipped, timed
        self.seconds = None if minutes is None else 60 * minutes
        self.planned: int | None = None
        self.used = 0.0
        self.over = False
        self._began = self._mark = 0.0
        self._first = 0  # steps that earlier runs did

    def state_dict(self) -> dict[str, Any]:
        """Return the plan and the seconds that were used."""
        return {"planned": self.planned, "used": self.used + self._since()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the plan and the time of an earlier run."""
        self.planned, self.used = state["planned"], float(state["used"])

    def attach(self, trainer: Engine) -> None:
        """Follow a trainer; attach it after the state."""
        if self.seconds is not None:
            if self.planned is not None:
                self._set(trainer, self.planned)
            trainer.add_event_handler(Events.STARTED, self._start)
            trainer.add_event_handler(Events.ITERATION_COMPLETED, self._look)

    def _since(self) -> float:
        return time.monotonic() - self._began if self._began else 0.0

    def _start(self, trainer: Engine) -> None:
        self._began = self._mark = time.monotonic()
        self._first = trainer.state.iteration

    def _look(self, trainer: Engine) -> None:
        if self.seconds is None:
            return
        done = trainer.state.iteration
        if self.planned is None:
            if done - self._first == self.skipped:
                self._mark = time.monotonic()
            elif done - self._first == self.skipped + self.timed:
                step = (time.monotonic() - self._mark) / self.timed
                length = int(trainer.state.epoch_length or 1)
                steps = (self.seconds - self.used - self._since()) * self.share / max(step, 1e-9) + done
                self.planned = max(1, int(steps) // length) * length
                self._set(trainer, self.planned)
        if self.used + self._since() > self.seconds:
            self.over = True
            trainer.terminate()

    def _set(self, trainer: Engine, steps: int) -> None:
        self.scheduler.t_total = steps
        trainer.state.max_epochs = steps // int(trainer.state.epoch_length or 1)


def moved(first: Mapping[str, Tensor], last: Mapping[str, Tensor], step: float) -> dict[str, Tensor]:
    """Return the weights at ``step`` of the way from the first to the last; whole numbers are those of the last.

    Args:
        first: a state dict.
        last: one of the same names and shapes.
        step: 0 for the first, 1 for the last.

    References:
        Wortsman et al., Robust fine-tuning of zero-shot models, https://arxiv.org/abs/2109.01903
    """
    return dict(_moved(first, last, step))


def _moved(first: Mapping[str, Tensor], last: Mapping[str, Tensor], step: float) -> Iterator[tuple[str, Tensor]]:
    for name, value in last.items():
        is_real = value.is_floating_point() and step != 1
        yield name, torch.lerp(first[name].to(value), value, step) if is_real else value.clone()
