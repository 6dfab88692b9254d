"""Slices and tiles restored at the same time: the result, the threads and the memory."""

import threading
import time
from contextvars import ContextVar

import pytest
import torch
from torch import nn

from medrestore_monai import inferers, memory, stopping
from medrestore_monai.inferers import SliceWiseInferer
from medrestore_monai.networks import RestoreRWKV
from medrestore_monai.notes import Notes, note
from medrestore_monai.workers import work_through


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


class Watched(nn.Module):
    """Doubles a batch; notes the threads that run it, how many do at once, and PyTorch's threads in each."""

    def __init__(self, pause=0.05):
        super().__init__()
        self.lock, self.inside, self.most, self.pause = threading.Lock(), 0, 0, pause
        self.threads, self.names, self.calls = set(), set(), 0

    def forward(self, x):
        with self.lock:
            self.inside += 1
            self.calls += 1
            self.most = max(self.most, self.inside)
            self.threads.add(torch.get_num_threads())
            self.names.add(threading.current_thread().name)
        time.sleep(self.pause)
        with self.lock:
            self.inside -= 1
        return 2 * x


def infer(volume, network, **options):
    options = {"clip_range": None, "bytes_per_pixel": 1.0, **options}
    with torch.no_grad():
        return SliceWiseInferer(**options)(volume, network)


@pytest.mark.parametrize("slices", [1, 2, 3, 4, 7])
def test_all_cores_are_used_by_any_number_of_slices(slices):
    network = Watched().eval()
    volume = torch.rand(1, 1, 5, 6, slices)
    assert torch.equal(infer(volume, network), 2 * volume)
    assert network.calls == slices
    assert network.most == min(slices, 4)
    # full rounds of one thread each; the slices that are left share the four
    rest = slices % 4
    assert network.threads == ({1} if slices >= 4 else set()) | ({4 // rest} if rest else set())


def test_tiles_of_a_single_slice_are_restored_at_a_time():
    network = Watched().eval()
    image = torch.rand(1, 1, 40, 24)
    assert torch.equal(infer(image, network, tile=16, halo=4), 2 * image)
    assert network.most == 4
    assert network.threads == {1}


def test_slices_and_tiles_together_stay_within_the_workers():
    network = Watched().eval()
    infer(torch.rand(1, 1, 40, 40, 2), network, tile=16, halo=4)
    assert network.most == 4


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("tile", [None, 64])
def test_the_number_of_workers_does_not_change_values(context, tile):
    torch.manual_seed(0)
    network = RestoreRWKV(context=context, dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1).eval()
    nn.init.normal_(network.output.weight, std=0.02)
    volume = torch.rand(1, 1, 72, 65, 5)
    options = {"context": context, "tile": tile, "halo": 16, "alignment": 8, "clip_range": (0.0, 1.0)}
    one, three = (infer(volume, network, workers=workers, **options) for workers in (1, 3))
    assert (one - volume).abs().max() > 0.01
    torch.testing.assert_close(three, one, rtol=0, atol=1e-6)


def test_modes_of_the_caller_hold_in_the_workers():
    seen = []

    class Looks(nn.Module):
        def forward(self, x):
            seen.append((torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), (x @ x.mT).dtype))
            return x

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        infer(torch.rand(1, 1, 8, 8, 4), Looks().eval())
    assert seen == [(True, True, torch.bfloat16)] * 4


def test_notes_and_context_reach_the_caller():
    name = ContextVar("name", default="none")
    name.set("mine")
    with Notes() as notes:
        assert list(work_through(lambda job: note(f"{name.get()} {job}"), [1, 2], 2)) == [1, 2]
    assert sorted(notes.messages) == ["mine 1", "mine 2"]


def test_the_first_error_ends_the_work():
    begun = []

    def work(job):
        begun.append(job)
        time.sleep(0.02)
        if job in (2, 3):
            raise ValueError(f"job {job}")

    with pytest.raises(ValueError, match="job 2"):
        list(work_through(work, range(40), 2))
    assert len(begun) < 10


def test_a_wish_to_stop_ends_the_work(monkeypatch):
    begun = []
    monkeypatch.setattr(stopping, "_asked", 0)

    def work(job):
        begun.append(job)
        stopping._asked = 143
        time.sleep(0.05)

    with pytest.raises(SystemExit):
        list(work_through(work, range(40), 2))
    assert len(begun) < 10


def test_each_thread_keeps_to_its_part():
    """What a worker computes takes no time of threads beside it: PyTorch runs in that thread alone."""
    shares = []

    def work(job):
        x = torch.rand(600, 600)
        whole, own = time.process_time(), time.thread_time()
        for _ in range(20):
            x = (x @ x).softmax(-1)
        shares.append((time.thread_time() - own) / (time.process_time() - whole))

    torch.set_num_threads(2)
    list(work_through(work, [0, 1], 2))
    torch.set_num_threads(4)
    # two workers that run all the time, and nothing beside them: each has half of the process
    assert sum(shares) > 0.8


class TestWhereNothingRunsAtATime:
    def test_with_gradients(self):
        network = Watched().eval()
        SliceWiseInferer(clip_range=None)(torch.rand(1, 1, 4, 4, 3), network)
        assert network.most == 1

    def test_in_training_mode(self):
        network = Watched().train()
        infer(torch.rand(1, 1, 4, 4, 3), network)
        assert network.most == 1

    def test_a_plain_function_unless_asked_for(self):
        network = Watched()
        infer(torch.rand(1, 1, 4, 4, 3), lambda x: network(x))
        assert network.names == {threading.current_thread().name}
        infer(torch.rand(1, 1, 4, 4, 2), lambda x: network(x), workers=2)
        assert network.most == 2

    def test_a_network_with_threads_of_its_own(self):
        network = Watched().eval()
        network.own_threads = True
        infer(torch.rand(1, 1, 4, 4, 3), network)
        assert network.most == 1

    def test_processes_that_share_the_machine(self, monkeypatch):
        monkeypatch.setattr(memory, "_processes", 2)
        network = Watched().eval()
        infer(torch.rand(1, 1, 4, 4, 3), network)
        assert network.most == 1
        assert network.threads == {4}


def test_memory_limits_the_workers(monkeypatch):
    size, per_pixel = 32, 1000.0
    slice_bytes = (per_pixel + 6 * 4) * size**2
    volume = 4 * size**2 * 6
    for fitting, workers in ((1.2, 1), (2.5, 2), (3.5, 3), (9, 4)):
        monkeypatch.setattr(inferers, "available_bytes", lambda device, n=fitting: (n * slice_bytes + volume) / 0.8)
        network = Watched().eval()
        infer(torch.rand(1, 1, size, size, 6), network, bytes_per_pixel=per_pixel, tile="auto")
        assert network.most == workers


def test_memory_of_an_unknown_network_is_measured_before_it_runs_at_a_time():
    network = Watched().eval()
    infer(torch.rand(1, 1, 8, 8, 4), network, bytes_per_pixel=None)
    assert network.calls == 5


def test_workers_must_be_a_number():
    with pytest.raises(ValueError, match="workers must be at least 1"):
        SliceWiseInferer(workers=0)
