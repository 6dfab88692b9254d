"""Whether the files of a study are those that were restored, by their names, sizes and times of writing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

_SECOND = 10**9  # ns


def fingerprints(files: Iterable[tuple[str, int, int]]) -> tuple[str, ...]:
    """Return digests of the files of a study, and of copies of them with coarser times.

    Args:
        files: name, size in bytes and time of writing in ns of each, in any order.

    Returns:
        The digest of the files as they are; then those of copies that keep whole seconds, as tar does, or every second
        one, as zip and FAT do, rounded down or up.
    """
    listed = sorted(files)
    found = [_digest(listed)]
    for step in (_SECOND, 2 * _SECOND):
        found.append(_digest((name, size, time // step * step) for name, size, time in listed))
        found.append(_digest((name, size, -(-time // step) * step) for name, size, time in listed))
    return tuple(found)


def are_same(before: Sequence[str], now: Sequence[str]) -> bool:
    """Say whether files are the same, or one a copy of the other with coarser times, by their :func:`fingerprints`."""
    return before[0] in now or now[0] in before


def _digest(files: Iterable[tuple[str, int, int]]) -> str:
    digest = hashlib.sha256()
    for name, size, time in files:
        digest.update(f"{name!r} {size} {time}\n".encode())
    return digest.hexdigest()[:16]
