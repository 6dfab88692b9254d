"""Time Re-WKV side by side in one process, as multiples of a triad, and print one table a shape.

    python scripts/benchmark/biwkv.py                             # every shape and form: minutes
    python scripts/benchmark/biwkv.py --quick                     # one shape, few rounds: below a minute
    python scripts/benchmark/biwkv.py --shapes 1,48,512,512 --rounds 15 --forms cpu
    python scripts/benchmark/biwkv.py --device cuda --forms triton torch

A triad is ``out = k + 0.5 v`` on float32 tensors of the same size. In each round everything runs once; cells are
medians of the ratios within a round, so that a busy machine slows both down. On the CPU everything runs on one thread
and that thread's CPU seconds are counted; on CUDA, events time each call after a write that empties the L2 cache.

Scans: H follows rows, V columns, "H+V gated" is the whole module. "forward" runs without gradients; "backward" is
what autograd takes from the result to all inputs. "MiB" is the most that forward and backward hold beyond the inputs.
The last column compares forward and backward together with the first form. All calls go through the public function and
allocate their results; with THP_MEM_ALLOC_ENABLE=1 in the environment, Linux gives PyTorch large pages and the first
touch of fresh memory costs less.
"""

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from medrestore_monai.ops import re_wkv
from medrestore_monai.ops.biwkv import BACKENDS, choose_backend
from medrestore_monai.ops.biwkv import cpu as biwkv_cpu

SHAPES = ["1,48,512,512", "1,96,256,256", "1,192,128,128", "1,384,64,64", "4,48,128,128"]
SCANS = {"H": (1, False, False), "V": (1, True, False), "H+V gated": (2, False, True)}  # scans, columns, gate
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def cumulative(decay: Tensor, first: Tensor, k: Tensor, v: Tensor, r: Tensor | None, columns: bool) -> Tensor:
    """Compute Re-WKV by cumulative sums, the shortest form in PyTorch; for moderate ``decay * tokens`` only."""
    dtype, k, mixed = v.dtype, k.float(), v.float()
    for scan, (w, u) in enumerate(zip(decay, first, strict=True)):
        turned = (scan % 2 == 1) != columns
        keys, values = ((x.transpose(1, 2) if turned else x).flatten(1, 2) for x in (k, mixed))
        t = torch.arange(keys.shape[1], device=k.device)[:, None] - keys.shape[1] / 2
        e = torch.exp(keys - keys.amax(dim=1, keepdim=True))
        rising, falling = torch.exp(w * t), torch.exp(-w * t)

        def total(x: Tensor, w=w, u=u, rising=rising, falling=falling) -> Tensor:
            up, down = x * rising, x * falling
            after = down.sum(1, keepdim=True) - down.cumsum(1)
            return w.exp() * ((up.cumsum(1) - up) * falling + after * rising) + u.exp() * x

        mixed = (total(e * values) / total(e)).view_as(k.transpose(1, 2) if turned else k)
        mixed = mixed.transpose(1, 2) if turned else mixed
    return (mixed if r is None else torch.sigmoid(r.float()) * mixed).to(dtype)


@dataclass
class Case:
    """One form of the operator on tensors of one shape, type and choice of scans."""

    function: Callable[..., Tensor]
    tensors: list[Tensor]  # decay, bonus, k, v and perhaps the gate
    columns: bool
    seed: Tensor

    def forward(self) -> Tensor:
        """Return the result."""
        decay, first, k, v, *gate = self.tensors
        return self.function(decay, first, k, v, gate[0] if gate else None, self.columns)

    def backward(self) -> Callable[[], object]:
        """Run forward and return what runs backward, once."""
        leaves = [x.detach().requires_grad_() for x in self.tensors]
        y = Case(self.function, leaves, self.columns, self.seed).forward()
        return partial(torch.autograd.grad, y, leaves, self.seed)


def make_case(form: str, shape: tuple[int, ...], scans: str, dtype: torch.dtype, device: str) -> Case:
    batch, channels, height, width = shape
    count, columns, gated = SCANS[scans]
    k, v, r, seed = (torch.randn(batch, height, width, channels, device=device).to(dtype) for _ in range(4))
    decay = torch.randn(count, channels, device=device) / (height * width)
    function = cumulative if form == "cumsum" else partial(re_wkv, backend=form)
    return Case(function, [decay, torch.randn_like(decay), k, v, *([r] if gated else [])], columns, seed)


class Clock:
    """Time calls on one device."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        self.flush = torch.empty(1 << 28, dtype=torch.int8, device=device) if self.cuda else None

    def __call__(self, function: Callable[[], object]) -> float:
        """Return the seconds that one call takes."""
        if self.flush is None:
            start = time.thread_time()
            function()
            return time.thread_time() - start
        self.flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000


def resident(field: str) -> int:
    """Return a field of this process' status, VmRSS or VmHWM, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak(case: Case, cuda: bool) -> float:
    """Return the most MiB that forward and backward hold at once beyond what was there; on a CPU under Linux only."""
    if cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        case.backward()()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if sys.platform != "linux":
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest size so far
    before = resident("VmRSS")
    case.backward()()
    return (resident("VmHWM") - before) / 2**10


def measure(cases: dict[tuple[str, ...], Case], triad: Callable[[], object], clock: Clock, rounds: int):
    """Return the triad's seconds, and for every case those of forward and of backward, in every round but the first."""
    triads: list[float] = []
    seconds: dict[tuple[str, ...], tuple[list[float], list[float]]] = {name: ([], []) for name in cases}
    for turn in range(rounds + 1):
        took = clock(triad)
        if turn:
            triads.append(took)
        for name, case in cases.items():
            with torch.no_grad():
                forward = clock(case.forward)
            backward = clock(case.backward())
            if turn:
                seconds[name][0].append(forward)
                seconds[name][1].append(backward)
    return triads, seconds


def ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def rows(cases: dict, triads: list[float], seconds: dict, clock: Clock, best: str) -> Iterator[list[str]]:
    """Make the cells of a table; the last two columns compare with the form called ``best``."""
    for (form, scans, dtype), case in cases.items():
        forward, backward = seconds[form, scans, dtype]
        cells = [form, scans, dtype, f"{ratio(forward, triads):.1f}", f"{ratio(backward, triads):.1f}"]
        cells += [f"{ratio(backward, forward):.1f}", f"{peak(case, clock.cuda):.0f}"]
        ours = seconds.get((best, scans, dtype))
        both = [[a + b for a, b in zip(*pair, strict=True)] for pair in (ours or ([], []), (forward, backward))]
        yield [*cells, f"{ratio(both[1], both[0]):.1f}" if ours else "-"]


def available(device: str, wanted: list[str] | None) -> list[str]:
    """Return the forms that run on the device, the fastest first."""
    found = []
    for form in wanted or ["cpu", "triton", "torch", "cumsum", "robust"]:
        try:
            if form == "cumsum" or choose_backend(torch.empty(1, device=device), form):
                found.append(form)
        except (RuntimeError, ValueError) as error:
            if wanted:
                raise SystemExit(f"Error: {error}") from None
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=None, help=f"B,C,H,W; default: {' '.join(SHAPES)}")
    parser.add_argument("--forms", nargs="+", choices=[*BACKENDS[1:], "cumsum"], help="default: all there are")
    parser.add_argument("--rounds", type=int, default=None, help="default: 7; 30 on CUDA")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="one shape, three rounds, without the slowest forms")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    device, torch_device = arguments.device, torch.device(arguments.device)
    torch.set_num_threads(1)
    forms = available(device, arguments.forms)
    if arguments.quick and not arguments.forms:
        forms = [form for form in forms if form not in ("cumsum", "robust")]
    shapes = arguments.shapes or (["1,96,128,128"] if arguments.quick else SHAPES)
    rounds = arguments.rounds or (3 if arguments.quick else 30 if torch_device.type == "cuda" else 7)
    console, clock = Console(width=110), Clock(device)
    where = (
        torch.cuda.get_device_name(torch_device) if clock.cuda else f"CPU, {biwkv_cpu.instruction_set()}, one thread"
    )
    console.print(f"Re-WKV on {where}; torch {torch.__version__}; multiples of a triad of {rounds} rounds")
    for text in shapes:
        shape = tuple(int(x) for x in text.split(","))
        names = [(form, scans, dtype) for scans in SCANS for dtype in DTYPES for form in forms]
        # float64 sums in PyTorch take a hundred times as long: once is enough to know
        names = [name for name in names if name[0] != "robust" or name[1:] == ("H", "fp32")]
        cases = {name: make_case(name[0], shape, name[1], DTYPES[name[2]], device) for name in names}
        k, v, out = (torch.randn(shape, device=device) for _ in range(3))
        triads, seconds = measure(cases, partial(torch.add, k, v, alpha=0.5, out=out), clock, rounds)
        median = statistics.median(triads)
        title = f"B, C, H, W = {text}: triad {1000 * median:.3f} ms, {12 * k.numel() / median / 1e9:.0f} GB/s"
        heads = ["form", "scans", "type", "forward", "backward", "b / f", "MiB", f"fwd+bwd / {forms[0]}"]
        table = Table(title=title, title_justify="left")
        for head in heads:
            table.add_column(head, justify="left" if head in ("form", "scans", "type") else "right")
        for cells in rows(cases, triads, seconds, clock, forms[0]):
            table.add_row(*cells)
        console.print(table)


if __name__ == "__main__":
    main()
