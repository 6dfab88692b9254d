"""What a cluster is made of, without starting one."""

import errno
import pickle
from types import SimpleNamespace

import pytest
from distributed import KilledWorker

from medrestore_monai.restorer import Restorer
from medrestore_monai.studies import Workers, cluster


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("auto", None, ["0", "1", "0"]),
        ("cuda", "3,5", ["3", "5", "3"]),
        ("cuda:1", None, [None] * 3),
        ("cpu", "3,5", [None] * 3),
    ],
)
def test_each_worker_sees_one_gpu_where_the_device_is_free_to_choose(monkeypatch, device, visible, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = cluster._environments(Workers(Restorer, 3, device=device))
    assert [variables.get("CUDA_VISIBLE_DEVICES") for variables in found] == expected


def test_errors_that_stop_all_come_back_whole(monkeypatch):
    """As values: what a task raises, Dask logs with its arguments, which name the patient's folder."""
    opener = SimpleNamespace(restorer=lambda address: None, error=None)
    worker = SimpleNamespace(address="", plugins={"p": opener}, get_current_task=lambda: "study")
    monkeypatch.setattr(cluster, "get_worker", lambda: worker)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device", "out/a")

    monkeypatch.setattr(cluster, "restore_study", full)
    record, error = pickle.loads(pickle.dumps(cluster._restore(None, "p")))
    assert (record, error.errno, error.filename) == (None, errno.ENOSPC, "out/a")
    future = SimpleNamespace(status="finished", result=lambda: (record, error))
    with pytest.raises(OSError, match="No space left on device: 'out/a'"):
        cluster._record(future, None)


def test_a_lost_connection_stops_and_a_dead_worker_does_not():
    with pytest.raises(RuntimeError, match="connection to the scheduler was lost: re-run to resume"):
        cluster._record(SimpleNamespace(status="cancelled"), None)
    killed = KilledWorker("study-0", SimpleNamespace(address="tls://a"), 1)
    task = SimpleNamespace(give_up=lambda reason: {"outcome": "failed", "reason": reason})
    record = cluster._record(SimpleNamespace(status="error", exception=lambda: killed), task)
    assert record["reason"] == "the worker processes died while they restored it, 2 times."
    other = SimpleNamespace(status="error", exception=lambda: ModuleNotFoundError("No module named 'medrestore'"))
    with pytest.raises(RuntimeError, match="cannot run this version's work: No module"):
        cluster._record(other, task)


@pytest.mark.parametrize(("studies", "each"), [(9, (3, 2)), (2, (2, 4)), (1, (1, 8))])
def test_workers_of_this_machine_divide_the_threads_and_one_study_left_gets_all(monkeypatch, studies, each):
    seen = []

    def stop(workers):
        seen.append((workers.count, workers.threads))
        raise KeyError

    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr(cluster, "_client", stop)
    tasks = [SimpleNamespace(run="r", output="out")] * studies
    with pytest.raises(KeyError):
        next(cluster.restore_on_workers(tasks, Workers(Restorer, 3), {}))
    assert seen == [each]
