"""A wish to stop, such as SIGTERM: work looks at it between its steps, and so ends as if it had failed there."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["stop_if_asked", "stop_on_sigterm", "stopping_at_once"]

_asked = 0  # the exit code
_at_once = False


def stop_on_sigterm() -> None:
    """Note SIGTERM from now on; a second one ends the process where it is, and leaves the rest to the next run.

    An exception that a handler raises is lost where Python cannot pass it on, as in an import or a finalizer.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _ask)


def _ask(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = 128 + number
    signal.signal(number, signal.SIG_DFL)
    if _at_once:
        stop_if_asked()


def stop_if_asked() -> None:
    """End the process, with its context managers, if that was asked for.

    Raises:
        SystemExit: it was.
    """
    if _asked:
        raise SystemExit(_asked)


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Stop wherever the work is, for work that does not look between its steps.

    Raises:
        SystemExit: it was asked for, before or inside.
    """
    global _at_once
    _at_once = True
    try:
        stop_if_asked()
        yield
    finally:
        _at_once = False
