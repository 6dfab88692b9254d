"""Texts that would be paths or addresses outside of a bundle."""

import re

ABSOLUTE = re.compile(r"[/\\~]|[A-Za-z]:[/\\]")
UP = re.compile(r"(^|[/\\])\.\.([/\\]|$)")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def path_problem(value: str, schemes: tuple[str, ...] = ()) -> str:
    """Say why a text must not be used as a path or an address, or an empty text.

    Args:
        value: the text.
        schemes: what an address may begin with.
    """
    if _SCHEME.match(value):
        return "" if schemes and value.lower().startswith(schemes) else f"an address outside the bundle: {value[:100]}"
    if UP.search(value):
        return f"the path {value[:100]!r} leaves the bundle by '..'"
    return f"the path {value[:100]!r} is absolute" if ABSOLUTE.match(value) else ""
