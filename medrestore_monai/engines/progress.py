"""How far an engine is, how fast it goes and how long it will take."""

import atexit
import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

logger = logging.getLogger(__name__)


class ProgressBar:
    """Show a bar for each epoch on a terminal; elsewhere, log a line now and then.

    Ignite's ``ProgressBar`` needs tqdm and does not show the time for all epochs. Of several processes, only the first
    one shows anything.

    Args:
        name: what is going on.
        every: seconds between two lines where there is no terminal.
        console: where to draw; by default the standard error stream.
    """

    def __init__(self, name: str = "training", every: float = 30.0, console: Console | None = None) -> None:
        self.name = name
        self.every = every
        self.console = Console(stderr=True) if console is None else console
        self._bar: Progress | None = None
        self._began = self._told = 0.0
        self._done = 0  # iterations since then

    def attach(self, engine: Engine) -> None:
        """Follow an engine."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)

    def _start(self, engine: Engine) -> None:
        self._began = self._told = time.monotonic()
        self._done = 0

    def _begin_epoch(self, engine: Engine) -> None:
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.add_task(self._epoch(engine), total=engine.state.epoch_length, text="")
            self._bar.start()
            atexit.register(self._bar.stop)  # gives the terminal its cursor back after an error

    def _advance(self, engine: Engine) -> None:
        self._done += 1
        last = engine.state.iteration % engine.state.epoch_length == 0
        waited = time.monotonic() - self._told
        if self._bar is not None and (waited > 0.2 or last):
            self._told = time.monotonic()
            done = (engine.state.iteration - 1) % engine.state.epoch_length + 1
            self._bar.update(self._bar.task_ids[0], completed=done, text=self.text(engine))
        elif self._bar is None and waited > self.every:
            self._told = time.monotonic()
            logger.info("%s: %s", self._epoch(engine), self.text(engine))
        if self._bar is not None and last:  # before others write lines at the end of the epoch
            self._bar.stop()
            atexit.unregister(self._bar.stop)
            self._bar = None

    def _epoch(self, engine: Engine) -> str:
        of = f" of {engine.state.max_epochs}" if engine.state.max_epochs > engine.state.epoch else ""
        return f"{self.name}, epoch {engine.state.epoch}{of}"

    def text(self, engine: Engine) -> str:
        """Return iterations of this epoch, rate, remaining time of all epochs, and the loss if there is one."""
        length = engine.state.epoch_length
        done = (engine.state.iteration - 1) % length + 1
        seconds = max(time.monotonic() - self._began, 1e-9) / max(self._done, 1)
        missing = (engine.state.max_epochs - engine.state.epoch) * length + length - done
        rate = f"{1 / seconds:.1f}/s" if seconds < 1 else f"{seconds:.1f} s each"
        parts = [f"{done}/{length}", rate, f"{timedelta(seconds=round(missing * seconds))} left"]
        output: Any = engine.state.output
        output = output[0] if isinstance(output, list) and output else output  # decollated
        if isinstance(output, Mapping) and "loss" in output:
            parts.append(f"loss {float(output['loss']):.4g}")
        return ", ".join(parts)
