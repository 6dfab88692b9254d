"""Imports of a command that works on images: MONAI and PyTorch, some thousand modules."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Keep the garbage collector off what is imported: it looks at every object again and again, a quarter of the time.

    Afterwards the collector is as it was.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
