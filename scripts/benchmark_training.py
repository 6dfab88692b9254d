"""Training steps a second on a CUDA device, for the network of a bundle's train.json; prints a Markdown table.

    python scripts/benchmark_training.py
    python scripts/benchmark_training.py --network base --batch 2 --json training.json

A step is what the trainer does, on patches that lie on the device: forward, L1 loss, backward, Adam, and with float16
a gradient scaler. Precisions take turns, so that a device that slows down slows all of them.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from medrestore_monai.networks import RestoreRWKV
from medrestore_monai.ops.biwkv import choose_backend

CONFIG = Path(__file__).parents[1] / "bundles" / "ct_denoise_restore_rwkv" / "configs" / "train.json"
PRECISIONS = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


def training_step(network: torch.nn.Module, dtype: torch.dtype | None, shape: tuple[int, ...]) -> Callable[[], None]:
    """Return one step of training, whose state lives on."""
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    label = torch.rand(shape, device="cuda")
    image = label + 0.05 * torch.randn_like(label)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
            loss = torch.nn.functional.l1_loss(network(image), label)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def milliseconds(step: Callable[[], None], count: int) -> float:
    """Time ``count`` steps on the device."""
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
    steps, memory, times = {}, {}, {name: [] for name in PRECISIONS}
    for name, dtype in PRECISIONS.items():
        steps[name] = training_step(RestoreRWKV(**options).cuda(), dtype, shape)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(3):  # kernels are compiled and memory is taken
            steps[name]()
        memory[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            times[name].append(milliseconds(step, arguments.steps))
    return [
        {
            "network": arguments.network,
            "precision": name,
            "batch": arguments.batch,
            "patch": arguments.patch,
            "steps_per_second": 1000 / statistics.median(times[name]),
            "peak_mib": memory[name],
        }
        for name in PRECISIONS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("light", "base"), default="light")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--patch", type=int, default=128, help="side of the patches in pixels")
    parser.add_argument("--steps", type=int, default=10, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("Error: PyTorch finds no CUDA device here.")
    backend = choose_backend(torch.zeros(1, device="cuda"))
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, Bi-WKV {backend}\n")
    rows = measure(arguments)
    print("| network | precision | steps/s | peak MiB |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['network']} | {row['precision']} | {row['steps_per_second']:.2f} | {row['peak_mib']:.0f} |")
    if arguments.json:
        about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "biwkv": backend, "rows": rows}
        arguments.json.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
