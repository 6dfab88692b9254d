"""Libraries are silent for as long as any thread wants it, and then as they were."""

import logging
import threading
import warnings

import pytest

from medrestore_monai.quiet import quiet


def test_threads_that_overlap_leave_levels_and_filters_as_they_were():
    logger, pydicom = logging.getLogger("monai"), logging.getLogger("pydicom")
    before = (list(warnings.filters), logger.level, list(pydicom.filters))
    inside, left = threading.Event(), threading.Event()

    def second():
        with quiet():
            inside.set()
            left.wait()

    thread = threading.Thread(target=second)
    with quiet():
        thread.start()
        inside.wait()
    assert logger.level == logging.CRITICAL  # the other one is still in
    left.set()
    thread.join()
    assert (list(warnings.filters), logger.level, list(pydicom.filters)) == before


def test_an_error_inside_ends_the_silence():
    before = list(warnings.filters)
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert warnings.filters == before
