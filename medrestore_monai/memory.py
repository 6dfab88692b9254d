"""How much memory is free, and how much a network needs per pixel."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

__all__ = ["available_bytes", "divide_memory", "measure_bytes_per_pixel", "sharing_processes", "used_bytes"]

# What kernels allocate inside one operation is not seen: 7 % (BasicUNet) to 50 % (5x5 convolutions) of what is.
_UNSEEN = 1.25
_processes = 1


def divide_memory(processes: int) -> None:
    """Count this process as one of so many that share the main memory; :func:`available_bytes` gives its part."""
    global _processes
    _processes = max(1, processes)


def sharing_processes() -> int:
    """Return how many processes share the main memory, by :func:`divide_memory`; 1 where that was not called."""
    return _processes


def available_bytes(device: torch.device | str = "cpu") -> int | None:
    """Memory free on ``device``.

    On CUDA the free part and what PyTorch holds in its cache, else main memory, within the limit of a Linux container
    and the part of it that :func:`divide_memory` leaves to this process. Apple's GPU shares the main memory, up to a
    limit that PyTorch knows.

    Args:
        device: a PyTorch device.

    Returns:
        Bytes, or ``None`` where the system does not say.
    """
    device = torch.device(device)
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    found = []
    if device.type == "mps":  # which shares the main memory
        found.append(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = [line.split() for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:")]
        found += [int(line[1]) * 1024 for line in lines]
    elif "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    found += _container_room()
    return min(found) // _processes if found else None


def used_bytes() -> int:
    """Main memory that this process uses now; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.is_file() else 0


def _container_room(cgroup: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Bytes left below the memory limit of this container (Linux cgroup v2), if there is one."""
    limit, used, stat = (cgroup / f"memory.{name}" for name in ("max", "current", "stat"))
    if not (limit.is_file() and used.is_file() and stat.is_file()) or not limit.read_text().strip().isdigit():
        return []
    # cached files count as used, but the kernel gives them up
    cached = [int(line.split()[1]) for line in stat.read_text().splitlines() if line.startswith("inactive_file ")]
    return [max(0, int(limit.read_text()) - int(used.read_text()) + sum(cached))]


@torch.no_grad()
def measure_bytes_per_pixel(network: Callable[..., Any], probe: Tensor, *args: Any, **kwargs: Any) -> float:
    """Peak memory of ``network`` per input pixel, by running it once on a small image.

    Holds for networks whose memory grows with the number of pixels. On CUDA it is PyTorch's own peak, elsewhere the
    peak of all tensors alive plus a quarter for what single operations allocate inside.

    Args:
        network: in evaluation mode.
        probe: a small image, shape ``(1, C, X, Y)``, on the network's device.
        args: passed to the network.
        kwargs: passed to the network.

    Raises:
        ValueError: if the network is in training mode, where the run would change its statistics.
    """
    if isinstance(network, nn.Module) and network.training:
        raise ValueError("Memory is measured by running the network: set it to evaluation mode first.")
    pixels = probe.shape[-2] * probe.shape[-1]
    if probe.is_cuda:
        before = torch.cuda.memory_allocated(probe.device)
        torch.cuda.reset_peak_memory_stats(probe.device)
        network(probe, *args, **kwargs)
        return max(1.0, (torch.cuda.max_memory_allocated(probe.device) - before) / pixels)
    with _LiveBytes() as live:
        network(probe, *args, **kwargs)
    return max(1.0, _UNSEEN * live.peak / pixels)


class _LiveBytes(TorchDispatchMode):
    """Follows the bytes of all tensors made inside, from their creation to their release."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return tree_map_only(Tensor, self._follow, func(*args, **(kwargs or {})))

    def _follow(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known.add(storage)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._release, storage.nbytes())
        return tensor

    def _release(self, count: int) -> None:
        self.now -= count
