import pytest
import torch
from torch import nn

from medrestore_monai import memory
from medrestore_monai.memory import _container_room, available_bytes, divide_memory, measure_bytes_per_pixel


def test_free_memory_is_known_here():
    free = available_bytes("cpu")
    assert free is None or 10**6 < free < 10**14


def test_processes_that_share_the_memory_divide_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "_processes", 1)
    monkeypatch.setattr(memory, "_container_room", lambda: [900_000])
    assert available_bytes("cpu") == 900_000
    divide_memory(4)
    assert available_bytes("cpu") == 225_000


def test_container_limit_counts_cached_files_as_free(tmp_path):
    assert _container_room(tmp_path) == []
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert _container_room(tmp_path) == []
    (tmp_path / "memory.max").write_text("1000\n")
    assert _container_room(tmp_path) == [450]


def test_peak_of_a_chain_is_two_neighbors():
    # in the second layer 16 + 16 channels of 4 bytes are alive, in the others less
    net = nn.Sequential(nn.Conv2d(1, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 1, 1)).eval()
    measured = measure_bytes_per_pixel(net, torch.rand(1, 1, 64, 64))
    assert measured == pytest.approx(1.25 * 32 * 4, rel=0.02)


def test_memory_is_not_measured_in_training():
    with pytest.raises(ValueError, match="evaluation mode"):
        measure_bytes_per_pixel(nn.Conv2d(1, 1, 1), torch.rand(1, 1, 4, 4))
