"""The error that was meant, where MONAI has wrapped it."""

from collections.abc import Iterator
from contextlib import contextmanager

from medrestore_monai.quiet import quiet


def root_cause(error: BaseException) -> BaseException:
    """Return the error that MONAI's transforms, configurations and engines have wrapped."""
    while error.__cause__ is not None and not isinstance(error, ValueError | OSError):
        error = error.__cause__
    return error


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise what MONAI has wrapped, and keep the logs and warnings of the engines to themselves."""
    with quiet():
        try:
            yield
        except Exception as error:
            cause = root_cause(error)
            raise cause from cause.__cause__
