"""How texts of foreign origin, such as names of files and errors of libraries, may stand in a message."""

from __future__ import annotations

__all__ = ["one_line", "printable", "sentence_of"]

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


def sentence_of(error: BaseException) -> str:
    """Say in one sentence what an error is about, with the file that the system names."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}."
    if isinstance(error, MemoryError):
        return "there is too little memory for this image."
    return one_line(str(error))
