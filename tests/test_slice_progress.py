"""How far a restoration is, is shown once for all of its slabs."""

import io

import pytest
from rich.console import Console

from medrestore_monai import slice_progress
from medrestore_monai.slice_progress import shown_slices


@pytest.fixture
def printed(monkeypatch):
    """What is printed, on a clock that goes on by 5 s whenever it is looked at."""
    stream, now = io.StringIO(), iter(range(0, 100000, 5))
    monkeypatch.setattr(slice_progress, "Console", lambda stderr: Console(file=stream, width=80))
    monkeypatch.setattr(slice_progress.time, "monotonic", lambda: next(now))
    return stream


def test_the_rest_is_told_from_the_first_slices_on_and_slabs_count_together(printed):
    with shown_slices(40):
        for _ in range(4):
            with shown_slices(10) as advance:
                for _ in range(10):
                    advance(1)
    lines = printed.getvalue().splitlines()
    words = ["1 of 40, 3:15 left", "7 of 40, 2:45 left"]  # each takes 5 s
    assert lines[:2] == [f"Restoring slices: {one}" for one in words]
    assert lines[-1] == "Restoring slices: 40 of 40, in 3:20"
    assert len(lines) == 8


def test_nothing_is_shown_unless_asked_for(printed):
    with shown_slices(4, False) as advance:
        advance(4)
    with shown_slices(4), shown_slices(4, False) as advance:
        advance(1)
    assert printed.getvalue() == ""
