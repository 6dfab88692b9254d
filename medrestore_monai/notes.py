"""Notes on one piece of work, such as a restoration: what a user should know of its result."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextvars import ContextVar, Token

__all__ = ["Notes", "note"]


class Notes:
    """Collects the notes of the work inside ``with``, each once.

    Collectors may be nested: the outer one gets the notes of the inner one, too. Each thread has its own.

    Args:
        report: called with each new note.
        alone: the outer collector gets none of them: they are handed on in another way.

    Attributes:
        messages: the notes, in order.
    """

    def __init__(self, report: Callable[[str], object] | None = None, alone: bool = False) -> None:
        self.messages: list[str] = []
        self._report, self._alone = report, alone
        self._outer: Notes | None = None
        self._token: Token[Notes | None] | None = None

    def __enter__(self) -> Notes:
        self._outer = None if self._alone else _active.get()
        self._token = _active.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        if self._token is not None:
            _active.reset(self._token)

    def add(self, message: str) -> None:
        """Take one note."""
        if message not in self.messages:
            self.messages.append(message)
            if self._report is not None:
                self._report(message)
        if self._outer is not None:
            self._outer.add(message)


_active: ContextVar[Notes | None] = ContextVar("notes", default=None)


def note(message: str, stacklevel: int = 2) -> None:
    """Give a note to the collector of this thread; without a collector it becomes a warning.

    Args:
        message: one or two sentences.
        stacklevel: of the warning, as in :func:`warnings.warn`.
    """
    collector = _active.get()
    if collector is None:
        warnings.warn(message, stacklevel=stacklevel + 1)
    else:
        collector.add(message)
