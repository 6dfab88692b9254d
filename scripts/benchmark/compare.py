"""CPU time of this checkout against another one, by turns, as ratios; prints a Markdown table.

    git worktree add ../before v0.1.0 && python ../before/medrestore_monai/ops/biwkv/build.py
    python scripts/benchmark/compare.py ../before                       # everything: minutes
    python scripts/benchmark/compare.py ../before --cases light light-bf16 --rounds 7 --size 256

Each checkout runs in a process of its own, with one thread, and answers one request at a time: in each round both run
once, so that other work on the machine slows both down. Seconds are CPU seconds of the process, medians of the rounds
but the first; the ratio is the median of the ratios within a round. Weights are random and the same in both, so that
results can be compared, too: "difference" is the largest, of the largest value. ``triad`` is ``out = k + 0.5 v`` and
the same in both: the rows of Bi-WKV divided by it are multiples of a triad.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
CASES = ("triad", "rows", "columns", "gated", "light", "light-bf16", "aff", "mlff", "meddeblur", "training-bf16")
ANSWER = """
import os, sys, time
import torch
from medrestore_monai import ops
from medrestore_monai.networks import AFFUNetRWKV, MedDeblur, MLFFUNet, RestoreRWKV

torch.set_num_threads(1)
size, folder = int(sys.argv[1]), sys.argv[2]


def scans(channels, **options):
    count = 2 if options.pop("gated", False) else 1
    k, v, r = (torch.randn(1, size, size, channels) for _ in range(3))
    decay, first = torch.randn(count, channels) / size**2, torch.randn(count, channels)
    gate = r if count == 2 else None
    return lambda: ops.re_wkv(decay, first, k, v, gate, backend="cpu", **options)


def triad(channels):
    k, v, out = (torch.randn(1, size, size, channels) for _ in range(3))
    return lambda: torch.add(k, v, alpha=0.5, out=out)


def inference(network, channels, bf16=False):
    for parameter in network.parameters():
        if parameter.numel() > 1 and parameter.std() < 2e-3:  # the last layer: else the change is next to nothing
            parameter.data.normal_(std=0.1)
    network = network.eval()
    network = network.merged() if hasattr(network, "merged") else network
    network, image = network.in_bfloat16() if bf16 else network, torch.rand(1, channels, size, size)
    return lambda: network(image)


def training():
    network, image = RestoreRWKV(**light), torch.rand(4, 1, 128, 128)
    optimizer = torch.optim.Adam(network.parameters())

    def step():
        optimizer.zero_grad()
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.l1_loss(network(image), image * 0.9)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


light = dict(dim=16, num_blocks=(1, 2, 2, 2), num_refinement_blocks=1)
narrow = dict(channels=(16, 32, 64, 128))
cases = {
    "triad": lambda: triad(48),
    "rows": lambda: scans(48),
    "columns": lambda: scans(48, columns=True),
    "gated": lambda: scans(48, gated=True),
    "light": lambda: inference(RestoreRWKV(**light), 1),
    "light-bf16": lambda: inference(RestoreRWKV(**light), 1, bf16=True),
    "aff": lambda: inference(AFFUNetRWKV(**narrow), 3),
    "mlff": lambda: inference(MLFFUNet(**narrow, growth=32), 3),
    "meddeblur": lambda: inference(MedDeblur(channels=(16, 32, 64)), 3),
    "training-bf16": training,
}
made = {}
for line in sys.stdin:
    name = line.strip()
    if name not in made:
        torch.manual_seed(0)
        made = {name: cases[name]()}
    with torch.no_grad():
        begin = time.process_time()
        result = made[name]()
        seconds = time.process_time() - begin
    torch.save(result, os.path.join(folder, "result.pt"))
    print(seconds, flush=True)
"""


class Checkout:
    """A process that runs a checkout."""

    def __init__(self, root: Path, size: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        environment = {**os.environ, "PYTHONPATH": str(root), "THP_MEM_ALLOC_ENABLE": "1"}
        command = [sys.executable, "-c", ANSWER, str(size), self.folder.name]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=self.folder.name, env=environment
        )

    def seconds(self, case: str) -> float:
        """Run a case once."""
        print(case, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"Error: {case} failed in {self.process.args[-1]}.")
        return float(answer)

    def result(self) -> torch.Tensor:
        """Return what the last case gave."""
        return torch.load(Path(self.folder.name, "result.pt"), weights_only=True).float()

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the checkout to compare with, its kernel built")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=512, help="side of the image in pixels; training has its own")
    options = parser.parse_args()
    checkouts = [Checkout(root, options.size) for root in (options.before.resolve(), ROOT)]
    print("| case | before, s | now, s | now / before | difference |\n|---|---|---|---|---|")
    for case in options.cases:
        rounds = [[each.seconds(case) for each in checkouts] for _ in range(options.rounds + 1)][1:]
        before, now = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(b / a for a, b in rounds)
        expected, result = (each.result() for each in checkouts)
        apart = float((result - expected).abs().max() / expected.abs().max())
        print(f"| {case} | {before:.3f} | {now:.3f} | {ratio:.3f} | {apart:.1e} |", flush=True)
    for each in checkouts:
        each.close()


if __name__ == "__main__":
    main()
