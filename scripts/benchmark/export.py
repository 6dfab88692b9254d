"""The exported Restore-RWKV against the network itself on the CPU, side by side in one process; prints Markdown tables.

    python scripts/benchmark/export.py
    python scripts/benchmark/export.py --sizes 256 --rounds 3 --compile
    python scripts/benchmark/export.py --file ct_denoise.onnx

Everything runs on one thread, and CPU seconds are counted. In each round everything runs once; a ratio is the median
of the ratios within a round, so that a busy machine slows all of it down. "Error" is the largest difference from the
network, divided by the largest change that the network makes; the sizes of the second table are chosen to be awkward.
``--file`` takes a file of ``medrestore export`` instead of exporting. ``--compile`` adds ``torch.compile`` (inductor).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from medrestore_monai.bundles import DEFAULT_BUNDLE, find_bundle, load_network
from medrestore_monai.bundles.onnx import OnnxNetwork, export_onnx

AWKWARD = [(2, 64, 96), (1, 17, 93), (3, 3, 9), (1, 1, 40), (1, 1, 1), (2, 120, 200)]


def timed(name: str, function: Callable[[], object]) -> object:
    """Call ``function`` and print how long it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    print(f"{name}: {time.process_time() - cpu:.1f} s of CPU time, {time.perf_counter() - wall:.1f} s", flush=True)
    return result


def shipped_network() -> nn.Module:
    bundle = find_bundle(DEFAULT_BUNDLE)
    parser = ConfigParser()
    parser.read_config(str(bundle.config("inference")))
    return load_network(parser.get_parsed_content("network_def"), bundle.weights, str(bundle.root))


def error(network: nn.Module, other: Callable[[Tensor], Tensor], x: Tensor) -> float:
    restored = network(x)
    return float((other(x) - restored).abs().max() / (restored - x).abs().max())


def measure(functions: dict[str, Callable[[Tensor], Tensor]], x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of every function in every round, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = time.process_time()
            function(x)
            if turn:
                seconds[name].append(time.process_time() - start)
    return seconds


@torch.inference_mode()
def compare(network: nn.Module, others: dict[str, nn.Module], sizes: list[int], rounds: int) -> None:
    print("\n| size | what | CPU time, s | times the network | error |\n|---|---|---|---|---|")
    for size in sizes:
        x = torch.rand(1, 1, size, size)
        seconds = measure({"network": network, **others}, x, rounds)
        for name, values in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(values, seconds["network"], strict=True))
            off = 0.0 if name == "network" else error(network, others[name], x)
            print(f"| {size} | {name} | {statistics.median(values):.3f} | {ratio:.2f} | {off:.1e} |", flush=True)
    print("\n| batch, height, width | error of ONNX |\n|---|---|")
    for batch, height, width in AWKWARD:
        x = torch.rand(batch, 1, height, width)
        print(f"| {batch}, {height}, {width} | {error(network, others['ONNX'], x):.1e} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--file", type=Path, help="an ONNX file of the shipped network")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the exportable form, too: minutes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = shipped_network()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.file or Path(folder) / "network.onnx"
        if arguments.file is None:
            timed("export", lambda: export_onnx(network, path))
        print(f"file: {path.stat().st_size / 2**20:.1f} MiB")
        others = {"ONNX": timed("load by onnxruntime", lambda: OnnxNetwork(path))}
    if arguments.compile:
        compiled = torch.compile(network.exportable(), fullgraph=True)
        for size in arguments.sizes:
            with torch.inference_mode():
                timed(f"compile at {size}", lambda size=size: compiled(torch.rand(1, 1, size, size)))
        others["inductor"] = compiled
    compare(network, others, arguments.sizes, arguments.rounds)


if __name__ == "__main__":
    main()
