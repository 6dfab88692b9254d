"""How texts of foreign origin, such as names of files and errors of libraries, may stand in a message."""

from __future__ import annotations

__all__ = ["one_line", "printable"]

_LONGEST = 2000  # characters of a message


def printable(text: str, longest: int = _LONGEST) -> str:
    """Return a text that cannot steer a terminal: invisible characters are escaped, the length is capped.

    Args:
        text: any, also one that is not UTF-8, as a file name may be.
        longest: characters; of a longer text the middle is left out.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    if len(shown) <= longest:
        return shown
    half = (longest - 5) // 2
    return f"{shown[:half]} ... {shown[-half:]}"


def one_line(text: str, longest: int = _LONGEST) -> str:
    """Return a message in one line, as :func:`printable`."""
    return printable(" ".join(text.split()), longest)
