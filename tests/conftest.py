"""Settings all tests share: one thread, fixed seeds, and the place of the larger real data."""

import os
import time
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # threads that wait for each other on a busy machine make tests ten times slower


SLOW = 0.2  # seconds of CPU time; what takes more is marked slow


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    start = time.process_time()
    try:
        return (yield)
    finally:
        item.user_properties.append(("cpu", time.process_time() - start))


def pytest_terminal_summary(terminalreporter, config):
    """With ``--durations``, name what should be marked slow; the first use of a package also counts its import."""
    if config.getoption("durations") is None:
        return
    passed = terminalreporter.stats.get("passed", [])
    unmarked = [one for one in passed if dict(one.user_properties).get("cpu", 0) > SLOW and "slow" not in one.keywords]
    for one in sorted(unmarked, key=lambda one: one.nodeid):
        terminalreporter.line(f"{dict(one.user_properties)['cpu']:.2f} s of CPU time, not marked slow: {one.nodeid}")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The folder of a CT bundle with a tiny network; its parent holds nothing else."""
    from tiny_bundle import make_tiny_bundle

    return make_tiny_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the larger real data, from ``MEDRESTORE_SHARED``; its tests are left out where it is not set."""
    place = os.environ.get("MEDRESTORE_SHARED")
    if not place:
        pytest.skip("MEDRESTORE_SHARED is not set")
    return Path(place) / "data"


@pytest.fixture
def forbid(monkeypatch):
    """Return a function that makes folders of a name unreadable, even for root."""

    def forbid(name):
        scandir = os.scandir

        def forbidding(path):
            if str(path).endswith(name):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", forbidding)

    return forbid
