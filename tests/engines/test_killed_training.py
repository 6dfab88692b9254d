"""A training of a bundle that is killed at any moment, and started again by the same command, loses nothing."""

import random
import signal
import time

import pytest
import torch
from tiny_bundle import make_tiny_bundle
from training_runs import assert_same_training, finish, rows, saved, start, train, write_patients

pytestmark = pytest.mark.slow

# enough epochs that a busy machine that misses one moment finds another before the end
OPTIONS = {"max_epochs": 10, "epoch_length": 3, "val_interval": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    return make_tiny_bundle(root), write_patients(root / "data", 3)


def kill_when(processes, ready, seconds=200):
    """Send SIGKILL as soon as something is so; returns whether it was before the end."""
    end = time.monotonic() + seconds
    while not ready() and processes[0].is_alive() and time.monotonic() < end:
        time.sleep(0.0002)
    for process in processes:
        process.kill()
    return finish(processes)[0] == -signal.SIGKILL


def moments(output):
    """While a state is written, while the best weights are, and some time after the first and the second epoch."""
    draw = random.Random(0)
    names = [".state.pt.part", ".model.pt.part"]
    yield from ((output / name).exists for name in names)
    for epoch in (1, 2):
        wait = draw.uniform(0.0, 0.5)
        begun = []

        def ready(epoch=epoch, wait=wait, begun=begun):
            if not begun and (output / "state.pt").exists() and saved(output)["trainer"]["epoch"] >= epoch:
                begun.append(time.monotonic())
            return bool(begun) and time.monotonic() > begun[0] + wait

        yield ready


def test_a_killed_training_ends_as_one_that_never_stopped(tmp_path, place):
    whole = train(*place, tmp_path / "whole", **OPTIONS)
    cut = tmp_path / "cut"
    killed = 0
    for ready in moments(cut):
        killed += kill_when(start(*place, cut, **OPTIONS), ready)
        for name in ("state.pt", "model.pt"):
            if (cut / name).exists():
                torch.load(cut / name, weights_only=True)
    assert killed >= 3
    if saved(cut)["trainer"]["epoch"] < OPTIONS["max_epochs"]:
        train(*place, cut, **OPTIONS)
    assert_same_training(cut, whole)
    assert [int(row["epoch"]) for row in rows(cut)] == list(range(1, OPTIONS["max_epochs"] + 1))


def test_the_loaders_workers_change_nothing(tmp_path, place):
    options = {**OPTIONS, "max_epochs": 1}
    alone = train(*place, tmp_path / "alone", **options)
    assert_same_training(train(*place, tmp_path / "workers", num_workers=2, **options), alone)
