"""Studies on Dask: processes on this machine, or those of a running scheduler; each worker opens the bundle once."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from typing import Any, cast

import dask
import torch
from distributed import (
    Client,
    Future,
    KilledWorker,
    Nanny,
    Scheduler,
    Security,
    SpecCluster,
    Worker,
    WorkerPlugin,
    as_completed,
    get_worker,
)

from medrestore_monai import __version__
from medrestore_monai.memory import divide_memory
from medrestore_monai.notes import note
from medrestore_monai.restorer import Restorer
from medrestore_monai.studies.job import Workers, settings_of
from medrestore_monai.studies.ledger import Record, differences
from medrestore_monai.studies.task import Task, restore_study

_OF_SCHEDULER = {
    # one study a worker, and the others wait in the scheduler: a worker that dies takes no innocent one along
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.allowed-failures": 1,
}
_CONFIG = {
    **_OF_SCHEDULER,
    "distributed.scheduler.no-workers-timeout": "10 minutes",  # of a local cluster whose workers cannot start again
    "distributed.worker.daemon": False,  # a worker may start processes of its own
}
_DIED = "the worker processes died while they restored it, {} times."


def restore_on_workers(tasks: Sequence[Task], workers: Workers, settings: Mapping[str, Any]) -> Iterator[Record]:
    """Restore studies on workers, and give the record of each as it comes.

    A study whose worker died is tried once more. What stops all cancels the rest.

    Args:
        tasks: the studies.
        workers: the cluster.
        settings: of :func:`~medrestore_monai.studies.settings_of`, which every worker must find as well.

    Raises:
        OSError: there is no scheduler, or the disk is full.
        RuntimeError: the connection is lost, a device failed, or a worker has another version, bundle or weights.
    """
    run = tasks[0].run
    # one client has an output: the name is its own, and replaces what a killed one left on a scheduler
    name = f"medrestore-{sha256(os.fsencode(tasks[0].output)).hexdigest()[:16]}"
    if not workers.scheduler:  # the last study left gets all threads
        count = min(workers.count, len(tasks))
        workers = replace(workers, count=count, threads=workers.threads or max(1, torch.get_num_threads() // count))
    with _client(workers) as client:
        if workers.scheduler:
            _note_other_scheduler(client)
        client.register_plugin(_OpenBundle(workers, settings, _sharing(client, workers)), name=name)
        try:
            # keys are seen in logs and dashboards: they carry nothing of the patient
            keys = [f"study-{run}-{number}" for number in range(len(tasks))]
            futures = [
                client.submit(_restore, task, name, key=key, pure=False) for key, task in zip(keys, tasks, strict=True)
            ]
            yield from _records(client, futures, dict(zip(keys, tasks, strict=True)))
        finally:
            with suppress(Exception):  # the cluster may be gone
                client.unregister_worker_plugin(name)


def _records(client: Client, futures: list[Future], tasks: Mapping[str, Task]) -> Iterator[Record]:
    pending = {future.key: future for future in futures}
    futures.clear()
    try:
        for future in as_completed(list(pending.values()), loop=client.loop):
            yield _record(pending.pop(future.key), tasks[future.key])
            future.release()
    finally:
        if pending:
            client.cancel(list(pending.values()), force=True)


def _record(future: Future, task: Task) -> Record:
    """Return the record of a task that has ended.

    Raises:
        OSError: the disk is full.
        RuntimeError: nothing more can be done, or the connection is lost.
    """
    if future.status == "finished":
        record, error = future.result()
        if error is not None:
            raise error
        return dict(record)
    if future.status == "error":
        error = future.exception()
        if isinstance(error, KilledWorker):
            return task.give_up(_DIED.format(error.allowed_failures + 1))
        raise RuntimeError(f"a worker cannot run this version's work: {error}") from error
    raise RuntimeError("the connection to the scheduler was lost: re-run to resume.")


def _restore(task: Task, plugin: str) -> tuple[Record | None, Exception | None]:
    """Restore one study on a worker. Errors are returned: Dask would log them with the paths."""
    worker = get_worker()
    key, opener = worker.get_current_task(), cast(_OpenBundle, worker.plugins[plugin])
    try:
        if opener.error is None:  # what stops all stops this worker before the client knows
            return restore_study(task, opener.restorer(worker.address), lambda: _is_wanted(worker, key)), None
    except OSError as error:
        opener.error = OSError(error.errno, error.strerror, error.filename)
    except Exception as error:
        opener.error = RuntimeError(str(error))
    return None, opener.error


def _is_wanted(worker: Worker, key: Any) -> bool:
    """Say whether the scheduler still waits for a task: not if its client is gone, or has cancelled it."""
    task = worker.state.tasks.get(key)
    return task is not None and task.state == "executing"


class _OpenBundle(WorkerPlugin):
    """Opens the bundle of a worker once and compares it with that of the client."""

    def __init__(self, workers: Workers, settings: Mapping[str, Any], sharing: int) -> None:
        self.workers, self.sharing = workers, sharing
        self.error: Exception | None = None
        self.expected = {"medrestore": __version__, **settings}

    async def setup(self, worker: Worker) -> None:
        """Open it while the worker starts; what fails is raised by the first study."""
        self._lock = threading.Lock()
        self._restorer: Restorer | None = None
        with suppress(Exception):
            await asyncio.to_thread(self.restorer, worker.address)

    def restorer(self, address: str) -> Restorer:
        """Return the opened bundle.

        Raises:
            RuntimeError: it cannot be opened, or is another one.
        """
        with self._lock:
            if self._restorer is None:
                torch.set_num_threads(self.workers.threads or max(1, _cores() // self.sharing))
                divide_memory(self.sharing)
                self._restorer = self._open(address)
            return self._restorer

    def _open(self, address: str) -> Restorer:
        try:
            restorer: Restorer = self.workers.open_restorer()
        except Exception as error:
            raise RuntimeError(f"the worker at {address} cannot open the bundle: {error}") from error
        other = differences({"medrestore": __version__, **settings_of(restorer)}, self.expected)
        if other:
            raise RuntimeError(f"the worker at {address} differs from this process: {other}.")
        return restorer


@contextmanager
def _client(workers: Workers) -> Iterator[Client]:
    """Connect to the scheduler, or start one with its workers, which end with this process."""
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_CONFIG))
        target = workers.scheduler or stack.enter_context(_local_cluster(workers))
        yield stack.enter_context(Client(target, timeout="30s", set_as_default=False))


def _local_cluster(workers: Workers) -> SpecCluster:
    """Start processes that this user alone can reach: on the loopback interface, with a certificate of this run."""
    common = {
        "host": "127.0.0.1",
        "protocol": "tls://",
        "security": Security.temporary(),
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",  # of the server that is left without one; by default it is open to all
    }
    # no limit of memory: what a study needs is planned, and one that is planned must not be killed
    options = {**common, "nthreads": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL}
    nannies = {
        number: {"cls": Nanny, "options": {**options, "env": env}} for number, env in enumerate(_environments(workers))
    }
    return SpecCluster(
        workers=nannies,
        scheduler={"cls": Scheduler, "options": {**common, "port": 0}},
        security=common["security"],
        silence_logs=logging.CRITICAL,
    )


def _environments(workers: Workers) -> list[dict[str, str]]:
    """Variables of each worker: where the device is free to choose, each sees one GPU."""
    gpus: list[str] = []
    if workers.device in ("auto", "cuda") and torch.cuda.is_available():
        numbers = map(str, range(torch.cuda.device_count()))
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(numbers)).split(",")
    return [{"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {} for number in range(workers.count)]


def _sharing(client: Client, workers: Workers) -> int:
    """Return how many studies share a machine."""
    if not workers.scheduler:
        return workers.count
    hosts: Counter[str] = Counter()
    for info in client.scheduler_info(n_workers=-1)["workers"].values():
        hosts[info["host"]] += info["nthreads"]
    return max(hosts.values(), default=1)


def _note_other_scheduler(client: Client) -> None:
    """Note that a running scheduler has no workers yet, or treats workers that die otherwise than ours."""
    if not client.scheduler_info(n_workers=-1)["workers"]:
        note("the scheduler has no workers: the studies wait for some.")
    # a function of Dask's: the scheduler need not have this package
    found = {name: client.run_on_scheduler(dask.config.get, name, None) for name in _OF_SCHEDULER}
    other = [f"{name} {found[name]}, better {value}" for name, value in _OF_SCHEDULER.items() if found[name] != value]
    if other:
        note(f"the scheduler runs with {' and '.join(other)}: a study that ends its worker may take others along.")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
