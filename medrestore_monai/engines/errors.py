"""The error that was meant, where MONAI has wrapped it, and its engines kept quiet."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def root_cause(error: BaseException) -> BaseException:
    """Return the error that MONAI's transforms, configurations and engines have wrapped."""
    while error.__cause__ is not None and not isinstance(error, ValueError | OSError):
        error = error.__cause__
    return error


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise what MONAI has wrapped, and keep the logs and notes of the engines to themselves."""
    loggers = [logging.getLogger(name) for name in ("ignite", "monai", "monai.bundle.workflows")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"monai|ignite|torch")
            warnings.filterwarnings("ignore", message=".*_target_.*")
            yield
    except Exception as error:
        cause = root_cause(error)
        raise cause from cause.__cause__
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
