"""Training steps a second, for the network of a bundle's train.json; prints a Markdown table.

    python scripts/benchmark/training.py
    python scripts/benchmark/training.py --network base --batch 2 --json training.json
    OMP_NUM_THREADS=1 python scripts/benchmark/training.py --device cpu --steps 5       # CPU time; no memory

A step is what the trainer does, on patches that lie on the device: forward, L1 loss, backward, Adam, and with float16
a gradient scaler. Precisions take turns, so that a device that slows down slows all of them.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from medrestore_monai.networks import RestoreRWKV
from medrestore_monai.ops.biwkv import choose_backend

CONFIG = Path(__file__).parents[2] / "bundles" / "ct_denoise_restore_rwkv" / "configs" / "train.json"
PRECISIONS = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


def training_step(
    network: torch.nn.Module, dtype: torch.dtype | None, shape: tuple[int, ...], device: str
) -> Callable[[], None]:
    """Return one step of training, whose state lives on."""
    network = network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    label = torch.rand(shape, device=device)
    image = label + 0.05 * torch.randn_like(label)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            loss = torch.nn.functional.l1_loss(network(image), label)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def milliseconds(step: Callable[[], None], count: int, device: str) -> float:
    """Time ``count`` steps on the device; on a CPU in CPU time."""
    if device == "cpu":
        begun = time.process_time()
        for _ in range(count):
            step()
        return 1000 * (time.process_time() - begun) / count
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / count


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    options = {k: v for k, v in json.loads(CONFIG.read_text())["network_def"].items() if k != "_target_"}
    if arguments.network == "base":
        options = {"use_checkpoint": options["use_checkpoint"]}  # the class's defaults are the paper's model
    shape = (arguments.batch, 1, arguments.patch, arguments.patch)
    device = arguments.device
    precisions = {name: dtype for name, dtype in PRECISIONS.items() if device == "cuda" or name != "float16"}
    steps, memory, times = {}, dict.fromkeys(precisions, 0.0), {name: [] for name in precisions}
    for name, dtype in precisions.items():
        steps[name] = training_step(RestoreRWKV(**options), dtype, shape, device)
        if device == "cpu":
            steps[name]()
            continue
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(3):  # kernels are compiled and memory is taken
            steps[name]()
        memory[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            times[name].append(milliseconds(step, arguments.steps, device))
    return [
        {
            "network": arguments.network,
            "precision": name,
            "batch": arguments.batch,
            "patch": arguments.patch,
            "steps_per_second": 1000 / statistics.median(times[name]),
            "peak_mib": memory[name],
        }
        for name in precisions
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("light", "base"), default="light")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--patch", type=int, default=128, help="side of the patches in pixels")
    parser.add_argument("--steps", type=int, default=10, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("Error: PyTorch finds no CUDA device here.")
    backend = choose_backend(torch.zeros(1, device=arguments.device))
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    print(f"{device}, PyTorch {torch.__version__}, Bi-WKV {backend}\n")
    rows = measure(arguments)
    print("| network | precision | steps/s | peak MiB |\n|---|---|---|---|")
    for row in rows:
        peak = f"{row['peak_mib']:.0f}" if arguments.device == "cuda" else "-"
        print(f"| {row['network']} | {row['precision']} | {row['steps_per_second']:.2f} | {peak} |")
    if arguments.json:
        about = {"device": device, "torch": torch.__version__, "biwkv": backend, "rows": rows}
        arguments.json.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
