"""Bi-WKV on the CPU against a triad on tensors of the same size, and against pure PyTorch; prints a Markdown table.

    python scripts/benchmark_biwkv.py
    python scripts/benchmark_biwkv.py --rounds 3 --shapes 1,48,512,512

Everything runs on one thread, and CPU seconds of that thread are counted. In each round everything runs once; ratios
are medians of the ratios within a round, so that a busy machine slows both down. The triad is ``out = k + 0.5 v`` in
float32; it and the kernel write to memory that is kept, since the first touch of fresh memory costs more than either.
"PyTorch / ours" is forward and backward together, along rows, through autograd and with fresh memory, as in training.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from medrestore_monai.ops import biwkv2d, biwkv_cpu

SHAPES = ["1,48,512,512", "1,96,256,256", "1,192,128,128", "1,384,64,64", "4,48,128,128"]


def forward_and_backward(tensors: list[Tensor], seed: Tensor, columns: bool, backend: str) -> None:
    leaves = [x.detach().requires_grad_() for x in tensors]
    torch.autograd.grad(biwkv2d(*leaves, columns=columns, backend=backend), leaves, seed)


def kernel(tensors: list[Tensor], columns: bool) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return forward and backward of the compiled kernel, which write to memory kept from call to call."""
    y, states = torch.ops.medrestore.biwkv2d(*tensors, columns)
    seed = torch.randn(y.shape).to(y.dtype)
    gradients = [torch.empty_like(x) for x in tensors]
    return (
        lambda: biwkv_cpu._call("biwkv_forward", [*tensors, y, states], columns),
        lambda: biwkv_cpu._call("biwkv_backward", [*tensors, seed, states, *gradients], columns),
    )


def candidates(shape: tuple[int, ...], with_torch: bool) -> dict[str, Callable[[], object]]:
    """Name what is timed for one shape ``(B, C, H, W)``."""
    batch, channels, height, width = shape
    k, v, seed = (torch.randn(batch, height, width, channels) for _ in range(3))
    tensors = [torch.randn(channels) / (height * width), torch.randn(channels), k, v]
    half = [*tensors[:2], k.bfloat16(), v.bfloat16()]
    out = torch.empty_like(k)
    found: dict[str, Callable[[], object]] = {"triad": lambda: torch.add(k, v, alpha=0.5, out=out)}
    for name, columns in (("rows", False), ("columns", True)):
        found[name], found[f"{name} back"] = kernel(tensors, columns)
        found[f"{name} bf16"], _ = kernel(half, columns)
    if with_torch:
        found["ours"] = lambda: forward_and_backward(tensors, seed, False, "cpu")
        found["torch"] = lambda: forward_and_backward(tensors, seed, False, "torch")
    return found


def measure(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every function in every round, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = time.thread_time()
            function()
            if turn:
                seconds[name].append(time.thread_time() - start)
    return seconds


def ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="B,C,H,W")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--without-torch", action="store_true", help="leave out the pure PyTorch form, which is slow")
    arguments = parser.parse_args()
    if not biwkv_cpu.is_available():
        raise SystemExit(biwkv_cpu.unavailable_reason())
    torch.set_num_threads(1)
    print(f"Bi-WKV with {biwkv_cpu.instruction_set()}, one thread; times the triad unless said otherwise\n")
    print(
        "| B, C, H, W | triad GB/s | rows | columns | rows bf16 | columns bf16 | backward rows | backward columns ",
        end="",
    )
    print("| backward / forward | PyTorch / ours |")
    print("|---" * 10 + "|")
    for text in arguments.shapes:
        shape = tuple(int(x) for x in text.split(","))
        t = measure(candidates(shape, not arguments.without_torch), arguments.rounds)
        size = 12 * torch.Size(shape).numel()
        cells = [f"{size / statistics.median(t['triad']) / 1e9:.0f}"]
        order = ("rows", "columns", "rows bf16", "columns bf16", "rows back", "columns back")
        cells += [f"{ratio(t[name], t['triad']):.1f}x" for name in order]
        cells += [f"{ratio(t['rows back'], t['rows']):.1f}x"]
        if not arguments.without_torch:
            cells += [f"{ratio(t['torch'], t['ours']):.1f}x"]
        print("| " + " | ".join([text.replace(",", ", "), *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
