"""A scheduler that runs already, with one worker, both in this process."""

import errno
import os
import threading
from contextlib import nullcontext
from functools import partial

import dask
import numpy as np
import pytest
import torch
from cluster_parts import open_restorer
from distributed import Client, LocalCluster
from phantoms import ct_volume

from medrestore_monai import memory
from medrestore_monai.notes import Notes
from medrestore_monai.restorer import Restorer
from medrestore_monai.studies import Workers, cluster, list_studies, make_job, restore_studies
from medrestore_monai.studies.lock import lock_output
from medrestore_monai.studies.task import make_task

SIZE = (16, 12)
IDLE = {"distributed.scheduler.allowed-failures": 1, "distributed.scheduler.worker-saturation": 1.0}


@pytest.fixture
def job(tmp_path, bundle):
    for number in range(4):
        (tmp_path / "in").mkdir(exist_ok=True)
        np.save(tmp_path / "in" / f"v{number}.npy", ct_volume(1, SIZE)[..., 0] + number)
    return make_job(tmp_path / "in", tmp_path / "out", Restorer(bundle, device="cpu"))


@pytest.fixture
def live(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(memory, "_processes", 1)
    options = {"processes": False, "threads_per_worker": 1, "protocol": "tcp://", "dashboard_address": None}
    with dask.config.set(IDLE), LocalCluster(n_workers=1, **options) as running:
        yield running
    torch.set_num_threads(threads)


def on(live, job):
    return Workers(partial(open_restorer, job.restorer.bundle.root), scheduler=live.scheduler_address)


def ours(live):
    return [name for name in live.scheduler.worker_plugins if "medrestore" in name]


@pytest.mark.slow
def test_all_studies_are_restored_and_the_scheduler_keeps_no_bundle(job, live):
    with Notes() as notes:
        records = restore_studies(job, workers=on(live, job))
    assert notes.messages == []
    assert {record["outcome"] for record in records} == {"restored"}
    for record in records:
        # MKL may round differently from thread to thread
        expected = job.restorer(np.load(record["source"]))
        np.testing.assert_allclose(np.load(record["output"]), expected, rtol=0, atol=4e-3)  # 1e-6 of the range, in HU
    assert ours(live) == []
    assert not live.scheduler.tasks


@pytest.mark.slow
def test_a_full_disk_stops_all(job, live, monkeypatch):
    attempts = []

    def full(*args, **options):
        attempts.append(args)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Restorer, "restore_file", full)
    with pytest.raises(OSError, match=r"No space left on device: .*v0\.npy"):
        restore_studies(job, workers=on(live, job))
    assert len(attempts) == 1
    assert not list(job.output.glob("*.npy"))
    assert ours(live) == []


@pytest.mark.slow
def test_what_works_for_a_client_that_is_gone_does_not_write(job, live, monkeypatch):
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def slow(self, path, result, **options):
        begun.set()
        go_on.wait(20)
        result.write_bytes(b"restored")

    monkeypatch.setattr(Restorer, "restore_file", slow)
    opener = cluster._OpenBundle(on(live, job), job.settings, 1)
    with lock_output(job.output) as run:
        task = make_task(job, list_studies(job.source)[0], None, run)
        with Client(live.scheduler_address, set_as_default=False) as client:
            client.register_plugin(opener, name="p")
            future = client.submit(cluster._restore, task, "p", key="study", pure=False)
            assert begun.wait(20)
        (worker,) = live.workers.values()
        while "study" in live.scheduler.tasks or worker.state.tasks["study"].state == "executing":
            ended.wait(0.02)
        go_on.set()
        while "study" in worker.state.tasks:
            ended.wait(0.02)
    assert future.status != "finished"
    assert not list(job.output.rglob("*.npy"))
    assert not list((job.output / ".medrestore").rglob("*.json"))[1:]  # client.json alone


@pytest.mark.slow
def test_a_run_replaces_the_bundle_that_a_killed_one_has_left_open(job, live):
    with Client(live.scheduler_address, set_as_default=False) as client:
        for run in "ab":
            tasks = [make_task(job, list_studies(job.source)[0], None, run)]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(cluster, "_client", lambda workers: nullcontext(client))
                patch.setattr(client, "unregister_worker_plugin", lambda name: None)
                patch.setattr(cluster, "_records", lambda *args: iter(()))
                assert list(cluster.restore_on_workers(tasks, on(live, job), job.settings)) == []
        assert len(ours(live)) == 1


def test_a_scheduler_of_other_settings_or_without_workers_is_noted(live):
    with dask.config.set({"distributed.scheduler.allowed-failures": 3}):
        live.scale(0)
        live.sync(live._correct_state)
        with Notes() as notes, Client(live.scheduler_address, set_as_default=False) as client:
            cluster._note_other_scheduler(client)
    first, second = notes.messages
    assert "no workers: the studies wait" in first
    assert "allowed-failures 3, better 1" in second
