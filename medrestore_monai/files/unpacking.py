"""How much a packed file may unpack to."""

from __future__ import annotations

__all__ = ["unpack_limit"]

_ALWAYS = 2 << 30  # bytes
_RATIO = 20  # of its own size; CT compresses two- to fivefold


def unpack_limit(packed: int) -> int:
    """Bytes that a file of so many bytes may unpack to, or declare to."""
    return max(_ALWAYS, _RATIO * packed)
