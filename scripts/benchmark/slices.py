"""Slices at a time against threads within a slice: the restoring loop of a volume, one thread against several.

    python scripts/benchmark/slices.py                              # 40 slices of 512x512; needs a quiet machine
    python scripts/benchmark/slices.py --slices 1 3 40 --sizes 128 256 512 --workers 1 2 4 --json slices.json
    taskset -c 0 python scripts/benchmark/slices.py --slices 4 --rounds 1     # the overhead alone, by CPU time

Each case is what the inferer does with a volume that lies in memory. "one" is one worker of one thread, "within" one
worker of several threads, "at a time" so many workers of one thread. In each round every case runs once, one after the
other, and cells are medians of the ratios to "one" of the same round. The speed-up is of wall time, and means
something only if nothing else runs; CPU time shows what the threads cost beyond one, on a busy machine, too. Results
are compared: they must agree within 1e-6. Weights are random; the network has the size of the bundles'.
"""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # before torch is imported, as medrestore asks

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from medrestore_monai.inferers import SliceWiseInferer
from medrestore_monai.networks import RestoreRWKV

BYTES_PER_PIXEL = 800.0  # as the bundles of this network say


@dataclass
class Case:
    """A way to restore one volume, and the seconds it took in each round: CPU time of all threads, and wall time."""

    slices: int
    size: int
    way: str
    threads: int
    workers: int
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def run(self, network: nn.Module, volume: Tensor) -> Tensor:
        """Restore the volume once and return it."""
        torch.set_num_threads(self.threads)
        inferer = SliceWiseInferer(alignment=8, bytes_per_pixel=BYTES_PER_PIXEL, workers=self.workers)
        cpu, wall = time.process_time(), time.perf_counter()
        with torch.no_grad():
            restored: Tensor = inferer(volume, network)
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)
        return restored


def cases_of(slices: int, size: int, workers: list[int]) -> list[Case]:
    """Return the ways to restore one volume; the first is what the others are compared with."""
    one = Case(slices, size, "one", 1, 1)
    several = [count for count in workers if count > 1]
    return [
        one,
        *(Case(slices, size, "within", count, 1) for count in several),
        *(Case(slices, size, "at a time", count, count) for count in several),
    ]


def ratio(case: Case, first: Case, kind: str) -> float:
    """Return the median over rounds of what ``first`` took to what ``case`` took."""
    values = zip(getattr(first, kind), getattr(case, kind), strict=True)
    return statistics.median(before / after for before, after in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs="+", default=[40])
    parser.add_argument("--sizes", type=int, nargs="+", default=[512], help="sides in pixels, multiples of 8")
    parser.add_argument("--workers", type=int, nargs="+", default=[2])
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    torch.manual_seed(0)
    network = RestoreRWKV(dim=16, num_blocks=(1, 2, 2, 2), num_refinement_blocks=1).eval()
    nn.init.normal_(network.output.weight, std=0.02)
    network = network.merged()
    if options.precision == "bfloat16":
        network = network.in_bfloat16()

    cases: list[Case] = []
    for slices in options.slices:
        for size in options.sizes:
            volume, here = torch.rand(1, 1, size, size, slices), cases_of(slices, size, options.workers)
            here[-1].run(network, volume[..., :1])  # to warm up
            here[-1].cpu.clear(), here[-1].wall.clear()
            for turn in range(options.rounds):
                expected = here[0].run(network, volume)
                for case in here[1:]:
                    largest = float((case.run(network, volume) - expected).abs().max())
                    if largest > 1e-6:
                        sys.exit(f"Error: {case.way} with {case.workers} workers differs by {largest:.1e}.")
                print(f"{slices} slices of {size}: round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
            cases += here
    print(f"Restore-RWKV light, {options.precision}, {os.cpu_count()} cores, medians of {options.rounds} rounds\n")
    print("| slices | side | way | threads | wall, s a slice | speed-up | CPU time against one |")
    print("|---|---|---|---|---|---|---|")
    for case in cases:
        first = next(one for one in cases if (one.slices, one.size) == (case.slices, case.size))
        wall = statistics.median(case.wall) / case.slices
        figures = f"{wall:.3f} | {ratio(case, first, 'wall'):.2f} | {1 / ratio(case, first, 'cpu'):.2f}"
        print(f"| {case.slices} | {case.size} | {case.way} | {case.threads} | {figures} |")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(case) for case in cases], indent=1) + "\n")


if __name__ == "__main__":
    main()
