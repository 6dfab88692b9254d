"""Time and memory of the networks side by side, in one run: inference, growth with the image, training.

    python scripts/benchmark/networks.py --quick                      # about 2 minutes of one CPU core
    python scripts/benchmark/networks.py                              # everything; about half an hour of one core
    python scripts/benchmark/networks.py --parts inference --sizes 512 --networks base light restormer red-cnn
    python scripts/benchmark/networks.py --parts growth --limit-seconds 300 --json growth.json
    python scripts/benchmark/networks.py --device cuda --json cuda.json

Weights are random, images are noise. On a CPU the main figure is CPU time with one thread, which other work on the
machine disturbs least; wall time stands beside it. In each round every network is measured once, the table shows the
smallest time of all rounds. A measurement is a forked child process: it runs a 32x32 image to warm up, then the image;
its peak memory is how much its largest resident size (``VmHWM``, begun anew before that run) grows in it, so that
weights and PyTorch do not count. What took less than 10 s runs a second time, and that time counts. A run that would
take over ``--limit-seconds`` or more memory than is free, by the time and memory of a smaller one, is skipped and
listed as such. bfloat16 is, for Restore-RWKV, its own ``in_bfloat16``; for the others bfloat16 weights or autocast,
whichever is faster here; where a CPU has no instructions for bfloat16, they take some 20 to 90 times as long and are
skipped. As ``medrestore`` does, this asks for large memory pages (``THP_MEM_ALLOC_ENABLE=1``), for all networks.

On CUDA, times are those of CUDA events after a run to warm up, memory is ``torch.cuda.max_memory_allocated`` over the
weights, all in this process. Forked children need Linux; MONAI's Restormer needs einops.
"""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # before torch is imported

import argparse
import ctypes
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from monai.networks.nets import BasicUNet, UNet
from monai.networks.nets.restormer import Restormer
from torch import nn

from medrestore_monai.memory import available_bytes
from medrestore_monai.networks import RestoreRWKV
from medrestore_monai.networks.baselines import REDCNN
from medrestore_monai.ops.biwkv import choose_backend
from medrestore_monai.ops.precision import multiplies_bfloat16

FORK = multiprocessing.get_context("fork")
WARM_UP, PROBE = 32, 64  # sides in pixels
ONCE = 10.0  # seconds: what takes longer is not run a second time
PLANES = {"spatial_dims": 2, "in_channels": 1, "out_channels": 1}
LIGHT = {"dim": 16, "num_blocks": (1, 2, 2, 2), "num_refinement_blocks": 1}
NETWORKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "base": ("Restore-RWKV base", lambda: RestoreRWKV()),
    "base-checkpoint": ("Restore-RWKV base, checkpointing", lambda: RestoreRWKV(use_checkpoint=True)),
    "base-torch": ("Restore-RWKV base, pure PyTorch", lambda: RestoreRWKV()),
    "light": ("Restore-RWKV light", lambda: RestoreRWKV(**LIGHT)),
    "light-checkpoint": ("Restore-RWKV light, checkpointing", lambda: RestoreRWKV(**LIGHT, use_checkpoint=True)),
    "light-torch": ("Restore-RWKV light, pure PyTorch", lambda: RestoreRWKV(**LIGHT)),
    "restormer": ("Restormer (MONAI)", lambda: Restormer(**PLANES, dim=48, heads=(1, 2, 4, 8), **RESTORMER)),
    "restormer-equal": (
        "Restormer (MONAI) of the light one's size",
        lambda: Restormer(**PLANES, dim=16, heads=(1, 2, 4, 8), num_blocks=(1, 2, 2, 2), num_refinement_blocks=1),
    ),
    "red-cnn": ("RED-CNN", REDCNN),
    "unet": ("UNet (MONAI), 32 to 256", lambda: UNet(**PLANES, channels=(32, 64, 128, 256), **UNET)),
    "unet-equal": (
        "UNet (MONAI) of the light one's size, 27 to 216",
        lambda: UNet(**PLANES, channels=(27, 54, 108, 216), **UNET),
    ),
    "basic-unet": ("BasicUNet (MONAI)", lambda: BasicUNet(**PLANES)),
}
RESTORMER = {"num_blocks": (4, 6, 6, 8), "num_refinement_blocks": 4}
UNET = {"strides": (2, 2, 2), "num_res_units": 2}
# as published, and of the size of the light network: 1.14 M parameters beside 1.19 M
EQUAL = ("restormer-equal", "unet-equal")
INFERENCE = ("base", "light", "light-torch", "restormer", "red-cnn", "unet", "basic-unet", *EQUAL)
GROWTH = ("base", "light", "restormer", "restormer-equal")
TRAINING = ("base", "base-checkpoint", "light", "light-checkpoint", "light-torch", "restormer", "unet", *EQUAL)
# pairs whose ratio is printed; of the second, the faster precision counts where none is given
RATIOS = (
    ("base", "restormer"),
    ("light", "restormer"),
    ("light", "red-cnn"),
    ("light", "light-torch"),
    ("light", "restormer-equal"),
    ("light", "unet-equal"),
)


@dataclass
class Result:
    """A row: the smallest time and the largest memory of all rounds; times in seconds, memory in MiB."""

    part: str
    name: str
    precision: str
    size: int
    batch: int
    parameters: int
    form: str = ""
    cpu: float = float("inf")
    wall: float = float("inf")
    peak: float = 0.0
    skipped: str = ""

    def add(self, cpu: float, wall: float, peak: float) -> None:
        """Count one more measurement."""
        self.cpu, self.wall, self.peak = min(self.cpu, cpu), min(self.wall, wall), max(self.peak, peak)


class Candidate:
    """A network in one precision and form, that restores noise or learns from it."""

    def __init__(self, name: str, precision: str, form: str, training: bool, device: str) -> None:
        self.name, self.precision, self.form, self.device = name, precision, form, torch.device(device)
        self.network = NETWORKS[name][1]().train(training)
        low = precision == "bfloat16"
        self.autocast = low and (training or form == "autocast")
        self.dtype = torch.bfloat16 if low and form == "weights" and not training else torch.float32
        if not training:
            self.network = self.network.merged() if isinstance(self.network, RestoreRWKV) else self.network
            self.network = self.network.in_bfloat16() if form == "own" else self.network.to(self.dtype)
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self.network.to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), 1e-4) if training else None

    def run(self, batch: int, size: int) -> None:
        """Restore a batch, or make one training step."""
        os.environ["MEDRESTORE_BIWKV"] = "torch" if self.name.endswith("-torch") else "auto"
        image = torch.rand(batch, 1, size, size, dtype=self.dtype, device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            if self.optimizer is None:
                with torch.inference_mode():
                    self.network(image)
                return
            loss = nn.functional.l1_loss(self.network(image), image)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def measure(candidate: Candidate, batch: int, size: int, threads: int) -> tuple[float, float, float] | None:
    """Return CPU seconds (on CUDA: device seconds), wall seconds and peak memory in MiB; nothing if memory ran out."""
    if candidate.device.type == "cuda":
        return measure_on_cuda(candidate, batch, size)
    receiver, sender = FORK.Pipe(duplex=False)

    def child() -> None:
        torch.set_num_threads(threads)
        candidate.run(1, WARM_UP)
        ctypes.CDLL(None).malloc_trim(0)  # what lies free in this process would hide a part of the growth
        Path("/proc/self/clear_refs").write_text("5")  # the largest resident size starts anew
        before = resident("VmRSS")
        cpu, wall = timed(candidate, batch, size)
        peak = resident("VmHWM") - before
        if wall < ONCE:
            cpu, wall = timed(candidate, batch, size)
        sender.send((cpu, wall, peak))

    process = FORK.Process(target=child)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return None
    finally:
        process.join()


def resident(field: str) -> float:
    """Return the resident size of this process in MiB: now (``VmRSS``) or at its largest (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024


def timed(candidate: Candidate, batch: int, size: int) -> tuple[float, float]:
    """Return CPU seconds of all threads, and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    candidate.run(batch, size)
    return time.process_time() - cpu, time.perf_counter() - wall


def measure_on_cuda(candidate: Candidate, batch: int, size: int) -> tuple[float, float, float] | None:
    """Measure with CUDA events, after one run to warm up and to compile kernels."""
    try:
        candidate.run(batch, size)
    except torch.cuda.OutOfMemoryError:
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, wall = torch.cuda.memory_allocated(), time.perf_counter()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    candidate.run(batch, size)
    last.record()
    torch.cuda.synchronize()
    wall = time.perf_counter() - wall
    return first.elapsed_time(last) / 1e3, wall, (torch.cuda.max_memory_allocated() - before) / 2**20


class Bench:
    """Builds, measures and keeps what was found."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.candidates: dict[tuple[str, str, bool], Candidate] = {}
        self.found: dict[tuple, Result] = {}
        self.probes: dict[Candidate, tuple[float, float]] = {}  # seconds and MiB per pixel, of the largest run so far

    def candidate(self, name: str, precision: str, training: bool) -> Candidate:
        """Build a network in the faster form of a precision, once."""
        key = (name, precision, training)
        if key not in self.candidates:
            low = precision == "bfloat16" and not training
            own = "-torch" in name or name in ("base", "light")
            forms = (("own",) if own else ("weights", "autocast")) if low else ("",)
            tried = [Candidate(name, precision, form, training, self.arguments.device) for form in forms]
            for candidate in tried:
                if not self.hopeless(candidate):
                    self.learn(candidate, 1, PROBE, measure(candidate, 1, PROBE, self.arguments.threads))
            self.candidates[key] = min(tried, key=lambda one: self.probes.get(one, (0.0, 0.0))[0])
        return self.candidates[key]

    def hopeless(self, candidate: Candidate) -> bool:
        """Return whether this device multiplies in bfloat16 so slowly that no one would use it."""
        low = candidate.autocast or candidate.dtype == torch.bfloat16
        return low and candidate.device.type == "cpu" and not multiplies_bfloat16()

    def learn(self, candidate: Candidate, batch: int, size: int, values: tuple[float, float, float] | None) -> None:
        """Remember what a run takes for each pixel."""
        pixels = batch * size**2
        self.probes[candidate] = (values[0] / pixels, values[2] / pixels) if values else (float("inf"), float("inf"))

    def refusal(self, candidate: Candidate, pixels: int) -> str:
        """Say why a run would take too long or too much, by a smaller one."""
        if self.hopeless(candidate):
            return "no bfloat16 instructions"
        seconds, mib = (value * pixels for value in self.probes[candidate])
        free = (available_bytes(candidate.device) or 2**62) / 2**20
        if seconds > self.arguments.limit_seconds:
            return f"about {seconds:.0f} s" if seconds < float("inf") else "out of memory"
        return f"about {mib / 1024:.0f} GiB" if mib > 0.8 * free else ""

    def table(self, part: str, names: list[str], sizes: list[int], batch: int = 1) -> None:
        """Measure every network in every precision, size after size and round after round."""
        training = part == "training"
        precisions = ["float32"] if part == "growth" else self.arguments.precisions
        for size in sizes:
            for turn in range(1 if part == "growth" else self.arguments.repeats):
                for candidate in [self.candidate(name, p, training) for p in precisions for name in names]:
                    key = (part, candidate.name, candidate.precision, size)
                    parameters = candidate.parameters
                    row = Result(part, candidate.name, candidate.precision, size, batch, parameters, candidate.form)
                    row = self.found.setdefault(key, row)
                    row.skipped = self.refusal(candidate, batch * size**2) if turn == 0 else row.skipped
                    if not row.skipped:
                        values = measure(candidate, batch, size, self.arguments.threads)
                        self.learn(candidate, batch, size, values)
                        row.add(*values) if values else setattr(row, "skipped", "out of memory")
                    note = row.skipped or f"{row.cpu:.3f} s, {row.peak:.0f} MiB"
                    print(f"{part}: {candidate.name} {candidate.precision} {size}: {note}", file=sys.stderr, flush=True)

    def rows(self, part: str) -> list[Result]:
        """Return what was found in one part."""
        return [row for row in self.found.values() if row.part == part]


def print_inference(rows: list[Result]) -> None:
    """Print one table for each size, and ratios."""
    for size in dict.fromkeys(row.size for row in rows):
        print(f"\n### One {size}x{size} slice\n")
        print(
            "| network | precision | parameters | CPU time, s | wall, s | peak memory, MiB |\n|---|---|---|---|---|---|"
        )
        here = [row for row in rows if row.size == size]
        for row in here:
            form = f" ({row.form})" if row.form in ("weights", "autocast") else ""
            print(f"| {NETWORKS[row.name][0]} | {row.precision}{form} | {row.parameters / 1e6:.2f} M | {cells(row)} |")
        print("\n| ratio | CPU time | peak memory |\n|---|---|---|")
        for name, other in RATIOS:
            for row in (row for row in here if row.name == name and not row.skipped):
                others = [o for o in here if o.name == other and not o.skipped]
                for label, choice in (("", [o for o in others if o.precision == row.precision]), ("best ", others)):
                    if choice and (label == "" or row.precision != "float32"):
                        best = min(choice, key=lambda o: o.cpu)
                        what = f"{name} {row.precision} / {label}{other} {best.precision}"
                        print(f"| {what} | {row.cpu / best.cpu:.2f} | {row.peak / max(best.peak, 1):.2f} |")


def cells(row: Result) -> str:
    """Return CPU time, wall time and memory as three cells."""
    if row.skipped:
        return f"skipped: {row.skipped} | | "
    return f"{row.cpu:.3f} | {row.wall:.3f} | {row.peak:.0f}"


def print_growth(rows: list[Result]) -> None:
    """Print time and memory by size, and how they grow where the pixels grow fourfold."""
    print("\n### Growth with the size of the slice, float32\n")
    print("| network | side | CPU time, s | wall, s | peak memory, MiB | time for 4 times the pixels | memory |")
    print("|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(row.name for row in rows):
        last = None
        for row in (row for row in rows if row.name == name):
            grown = " | "
            if last is not None and not row.skipped and not last.skipped:
                power = math.log(2) / math.log(row.size / last.size)  # to 4 times the pixels
                grown = f"{(row.cpu / last.cpu) ** power:.2f} | {(row.peak / max(last.peak, 1)) ** power:.2f}"
            print(f"| {NETWORKS[name][0]} | {row.size} | {cells(row)} | {grown} |")
            last = row


def print_training(rows: list[Result]) -> None:
    """Print training steps per second of CPU time."""
    print(f"\n### Training, batches of {rows[0].batch} patches of {rows[0].size}x{rows[0].size}, Adam\n")
    print("| network | precision | CPU time of a step, s | wall, s | peak memory, MiB | steps per second of CPU time |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        low = " (autocast)" if row.precision == "bfloat16" else ""
        rate = "" if row.skipped else f"{1 / row.cpu:.3f}"
        print(f"| {NETWORKS[row.name][0]} | {row.precision}{low} | {cells(row)} | {rate} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("inference", "growth", "training")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts), help="default: all")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="default: what fits each part")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512], help="sides of the slices for inference")
    parser.add_argument("--growth-sizes", nargs="+", type=int, default=[128, 256, 512, 1024])
    parser.add_argument("--precisions", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--patch", type=int, default=128, help="side of the training patches")
    parser.add_argument("--batch", type=int, default=4, help="patches in a training step")
    parser.add_argument("--repeats", type=int, default=2, help="rounds, each measuring every network once")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--limit-seconds", type=float, default=120, help="skip runs that would take longer")
    parser.add_argument("--quick", action="store_true", help="small images, one round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.growth_sizes, arguments.repeats = [128], [64, 128], 1
        arguments.patch, arguments.batch, arguments.limit_seconds = 64, 1, 10.0
    if min(*arguments.sizes, *arguments.growth_sizes, arguments.patch) < WARM_UP:
        parser.error(f"sides must be at least {WARM_UP} pixels")
    if min(arguments.repeats, arguments.threads, arguments.batch) < 1:
        parser.error("--repeats, --threads and --batch must be at least 1")
    if find_spec("einops") is None:
        raise SystemExit("Error: MONAI's Restormer needs einops, which is not installed: pip install einops")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("Error: PyTorch finds no CUDA device here.")

    torch.set_num_threads(1)  # no thread may run before the forks: it would be missing in the children
    machine = {
        "pytorch": torch.__version__,
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": arguments.threads,
        "rounds": arguments.repeats,
        "biwkv": choose_backend(torch.zeros(1, device=arguments.device)),
    }
    print(", ".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    bench = Bench(arguments)
    plans = {
        "inference": (INFERENCE, arguments.sizes, 1, print_inference),
        "growth": (GROWTH, arguments.growth_sizes, 1, print_growth),
        "training": (TRAINING, [arguments.patch], arguments.batch, print_training),
    }
    for part in arguments.parts:
        names, sizes, batch, show = plans[part]
        bench.table(
            part, [n for n in arguments.networks or names if part == "training" or "check" not in n], sizes, batch
        )
        show(bench.rows(part))
        print(flush=True)
    if arguments.json is not None:
        rows = [{k: v for k, v in asdict(row).items() if v != float("inf")} for row in bench.found.values()]
        arguments.json.write_text(json.dumps({"machine": machine, "results": rows}, indent=1) + "\n")


def cpu_name() -> str:
    """Name the processor as Linux does."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")


if __name__ == "__main__":
    main()
