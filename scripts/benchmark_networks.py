"""Time and memory of the networks for one slice on the CPU, side by side in one run; prints a Markdown table.

    python scripts/benchmark_networks.py
    python scripts/benchmark_networks.py --size 256 --threads 1 --repeats 3 --base --bf16

Weights are random; the slice is noise. In each round every network runs once, and the table shows medians over the
rounds, so that a machine that slows down slows all of them down. CPU seconds are those of all threads together: on a
busy machine, compare these with ``--threads 1``.

Peak memory is measured before the timing, for each network in a forked child process of its own: how much the largest
resident size (``ru_maxrss``) of the child grows in one run. Weights, PyTorch and what a run on a 32x32 image needs are
there before and do not count. Needs Linux, and einops for MONAI's Restormer.
"""

import argparse
import ctypes
import multiprocessing
import os
import resource
import statistics
import time
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
from monai.networks.nets import BasicUNet, UNet
from monai.networks.nets.restormer import Restormer
from torch import nn

from medrestore_monai.networks import RestoreRWKV
from medrestore_monai.networks.baselines import REDCNN
from medrestore_monai.ops.biwkv import choose_backend

FORK = multiprocessing.get_context("fork")
SMALL = 32  # pixels: side of the slice for warming up


@dataclass
class Candidate:
    """A row of the table."""

    name: str
    network: nn.Module
    biwkv: str = "auto"
    dtype: torch.dtype = torch.float32
    peak: float = 0.0  # MiB
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    @torch.inference_mode()
    def run(self, size: int) -> None:
        """Restore one slice of noise."""
        os.environ["MEDRESTORE_BIWKV"] = self.biwkv
        self.network(torch.rand(1, 1, size, size, dtype=self.dtype))

    def time(self, size: int) -> None:
        """Restore one slice and keep how long it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.run(size)
        self.seconds.append(time.perf_counter() - wall)
        self.cpu_seconds.append(time.process_time() - cpu)


def build(dtype: torch.dtype, with_base: bool) -> list[Candidate]:
    """Build all networks for one channel; the first is the one that the others are compared with."""
    light = RestoreRWKV(dim=16, num_blocks=(1, 2, 2, 2), num_refinement_blocks=1).merged()
    os.environ["MEDRESTORE_BIWKV"] = "auto"
    fastest = choose_backend(torch.zeros(1, dtype=dtype))
    found = [Candidate(f"Restore-RWKV light, Bi-WKV `{b}`", light, b) for b in dict.fromkeys((fastest, "torch"))]
    if with_base:
        found.append(Candidate(f"Restore-RWKV base, Bi-WKV `{fastest}`", RestoreRWKV().merged(), fastest))
    planes = {"spatial_dims": 2, "in_channels": 1, "out_channels": 1}
    restormer = Restormer(**planes, dim=48, num_blocks=(4, 6, 6, 8), heads=(1, 2, 4, 8), num_refinement_blocks=4)
    unet = UNet(**planes, channels=(32, 64, 128, 256), strides=(2, 2, 2), num_res_units=2)
    found.append(Candidate("Restormer (MONAI), the paper's size", restormer))
    found.append(Candidate("RED-CNN", REDCNN()))
    found.append(Candidate("UNet (MONAI), 32 to 256 channels", unet))
    found.append(Candidate("BasicUNet (MONAI)", BasicUNet(**planes)))
    for candidate in found:
        candidate.dtype = dtype
        candidate.network.to(dtype).eval()
        candidate.name += ", bf16" if dtype == torch.bfloat16 else ""
    return found


def measure_peak(candidate: Candidate, size: int, threads: int) -> float:
    """Return the growth of the largest resident size in one run, in MiB, measured in a forked child."""
    receiver, sender = FORK.Pipe(duplex=False)

    def child() -> None:
        torch.set_num_threads(threads)
        candidate.run(SMALL)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        candidate.run(size)
        sender.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)  # KiB on Linux

    process = FORK.Process(target=child)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"Error: {candidate.name} ended with code {process.exitcode}; -9 means out of memory.")
    return receiver.recv()


def print_table(candidates: list[Candidate]) -> None:
    reference = statistics.median(candidates[0].seconds)
    print("| network | parameters | time, relative | time, s | CPU time, s | peak memory over the weights, MiB |")
    print("|---|---|---|---|---|---|")
    for candidate in candidates:
        parameters = sum(parameter.numel() for parameter in candidate.network.parameters()) / 1e6
        wall, cpu = statistics.median(candidate.seconds), statistics.median(candidate.cpu_seconds)
        row = (candidate.name, f"{parameters:.2f} M", f"{wall / reference:.2f}", f"{wall:.3f}", f"{cpu:.3f}")
        print(f"| {' | '.join(row)} | {candidate.peak:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="rows and columns of the slice, a multiple of 8")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, each running every network once")
    parser.add_argument("--base", action="store_true", help="the base Restore-RWKV, too")
    parser.add_argument("--bf16", action="store_true", help="every network in bfloat16, weights and slice, too")
    arguments = parser.parse_args()
    if arguments.size < SMALL or arguments.size % 8 or arguments.threads < 1 or arguments.repeats < 1:
        parser.error(f"--size must be a multiple of 8 and at least {SMALL}, --threads and --repeats at least 1")

    if find_spec("einops") is None:
        raise SystemExit("Error: MONAI's Restormer needs einops, which is not installed: pip install einops")

    torch.set_num_threads(1)  # no thread may run before the forks: it would be missing in the children
    dtypes = (torch.float32, torch.bfloat16) if arguments.bf16 else (torch.float32,)
    candidates = [candidate for dtype in dtypes for candidate in build(dtype, arguments.base)]
    ctypes.CDLL(None).malloc_trim(0)  # what building left free would hide a part of the growth
    for candidate in candidates:
        candidate.peak = measure_peak(candidate, arguments.size, arguments.threads)

    torch.set_num_threads(arguments.threads)
    for candidate in candidates:
        candidate.run(SMALL)
    for _ in range(arguments.repeats):
        for candidate in candidates:
            candidate.time(arguments.size)
    print(
        f"One {arguments.size}x{arguments.size} slice, threads: {arguments.threads}, rounds: {arguments.repeats}, "
        f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}\n"
    )
    print_table(candidates)


if __name__ == "__main__":
    main()
