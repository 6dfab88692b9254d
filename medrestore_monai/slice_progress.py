"""How far the slices of a restoration are, over all its slabs and images, and how long the rest takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["shown_slices"]

Advance = Callable[[int], None]
_active: ContextVar[Advance | None] = ContextVar("slices", default=None)
_FIRST, _BETWEEN = 2.0, 30.0  # seconds to the first line, and between two


@contextmanager
def shown_slices(total: int, enabled: bool = True) -> Iterator[Advance]:
    """Show on the standard error stream how many slices are done: a bar on a terminal, else a line now and then.

    Where it is shown already, for a larger piece of work, this one counts there.

    Args:
        total: slices of this piece of work.
        enabled: show it.

    Yields:
        What is called with the number of slices that were just done.
    """
    outer = _active.get()
    if outer is not None or not enabled:
        yield outer if enabled and outer is not None else (lambda count: None)
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        token = _active.set(_Lines(console, total))
        try:
            yield _active.get() or (lambda count: None)
        finally:
            _active.reset(token)
        return
    columns = TextColumn("Restoring slices"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total)
        token = _active.set(lambda count: bar.advance(task, count))
        try:
            yield _active.get() or (lambda count: None)
        finally:
            _active.reset(token)


class _Lines:
    """Prints a line after the first slices, now and then, and at the end."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total, self._done = console, total, 0
        self._began = time.monotonic()
        self._next = self._began + _FIRST

    def __call__(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        whole = self._done >= self._total
        if now < self._next and not whole:
            return
        self._next = now + _BETWEEN
        spent = now - self._began
        clock = _clock(spent if whole else spent / self._done * (self._total - self._done))
        words = f"in {clock}" if whole else f"{clock} left"
        self._console.print(f"Restoring slices: {self._done} of {self._total}, {words}", highlight=False)


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
