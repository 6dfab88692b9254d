"""Libraries kept quiet, for as long as any thread wants it."""

import logging
import threading
import warnings
from contextlib import AbstractContextManager, ExitStack


def quiet() -> AbstractContextManager[None]:
    """Silence the logs and warnings of MONAI, Ignite, PyTorch and pydicom, which quotes header values.

    Threads may be in this at the same time: levels and filters change when the first one enters, and are what they were
    when the last one has left.
    """
    return _quiet


class _Quiet(AbstractContextManager[None]):
    def __init__(self) -> None:
        self._lock, self._inside, self._undo = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._silence()

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._undo.close()

    def _silence(self) -> None:
        for name in ("ignite", "monai", "monai.bundle.workflows"):
            logger = logging.getLogger(name)
            self._undo.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        pydicom = logging.getLogger("pydicom")
        pydicom.addFilter(_drop)
        self._undo.callback(pydicom.removeFilter, _drop)
        self._undo.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module=r"monai|ignite|torch|pydicom")
        warnings.filterwarnings("ignore", message=".*_target_.*")


def _drop(record: logging.LogRecord) -> bool:
    return False


_quiet = _Quiet()
