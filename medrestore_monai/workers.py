"""Work shared among threads, each of which leaves PyTorch a part of the cores.

Operations on one slice gain little from a second core; two slices at once gain nearly all of it. PyTorch and the
compiled kernels release the interpreter lock, so that threads suffice and all memory is shared.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import TypeVar

import torch

from medrestore_monai.stopping import stop_if_asked

__all__ = ["work_through"]

Job = TypeVar("Job")
_LOOK = 0.2  # seconds after which a waiting caller looks whether it is to stop


def work_through(work: Callable[[Job], object], jobs: Sequence[Job], workers: int) -> Iterator[Job]:
    """Do jobs, several at a time, and yield each in order when it is done.

    The threads share the cores that PyTorch uses in the calling thread (``torch.get_num_threads()``): one each where
    there are enough jobs, more where there are fewer. Gradients, inference mode and autocast on the CPU are as in the
    calling thread, and so is what context variables hold. With one worker the calling thread does all.

    Args:
        work: called with each job; no two of them may touch the same data.
        jobs: in order.
        workers: most jobs at a time.

    Raises:
        Exception: what the first job that failed raised; those that had not begun are dropped.
        SystemExit: the process was asked to stop.
    """
    threads = torch.get_num_threads()
    workers = min(workers, threads, len(jobs))
    if workers < 2:
        for job in jobs:
            stop_if_asked()
            work(job)
            yield job
        return
    even = len(jobs) - len(jobs) % workers
    yield from _at_once(work, jobs[:even], workers, threads)
    yield from work_through(work, jobs[even:], workers)  # the last few share all cores


def _at_once(work: Callable[[Job], object], jobs: Sequence[Job], workers: int, threads: int) -> Iterator[Job]:
    """Do jobs in so many threads; there are at least as many jobs."""
    run, begun = _in_modes_of_caller(work), threading.Barrier(workers + 1)

    def begin() -> None:
        torch.get_num_threads()  # on its first use in a thread, PyTorch takes the number that was set last in any
        torch.set_num_threads(threads // workers)
        begun.wait()

    with ThreadPoolExecutor(workers, initializer=begin) as pool:
        try:
            futures = [pool.submit(copy_context().run, run, job) for job in jobs]
            begun.wait()
        except BaseException:
            begun.abort()  # those that have started do not wait for the others
            raise
        torch.set_num_threads(threads)  # for threads that others start
        try:
            for job, future in zip(jobs, futures, strict=True):
                while not wait([future], timeout=_LOOK).done:
                    stop_if_asked()
                future.result()
                stop_if_asked()
                yield job
        finally:
            pool.shutdown(cancel_futures=True)


def _in_modes_of_caller(work: Callable[[Job], object]) -> Callable[[Job], None]:
    """Return ``work`` under the modes of PyTorch that each thread has for itself, as they are in this thread."""
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    autocast, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def run(job: Job) -> None:
        with (
            torch.inference_mode(inference),
            torch.set_grad_enabled(grad),
            torch.autocast("cpu", dtype, enabled=autocast),
        ):
            work(job)

    return run
