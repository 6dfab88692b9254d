"""How long networks of one size learn until they reach a PSNR, side by side in one run.

    python scripts/benchmark/time_to_psnr.py                          # up to 10 minutes of one core for each network
    python scripts/benchmark/time_to_psnr.py --limit-seconds 60 --targets 30 31 --json psnr.json

The task is the same for all: to remove Gaussian noise from the slices of the series that ships, in the window from
-160 to 240 HU. The last slices are held out. Every network gets the same patches and noise, in the same order, with
Adam and one learning rate; networks take turns, some steps each, and what counts is the CPU time of their steps, on one
thread, without that of scoring. Figures tell how fast a network learns this, not how good it becomes.
"""

import argparse
import json
import math
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from networks import NETWORKS
from torch import Tensor, nn

from medrestore_monai.dicom import read_series

DEMO = Path(__file__).resolve().parents[2] / "medrestore_monai" / "demo" / "ct_abdomen_crlm.zip"
EQUAL = ["light", "restormer-equal", "unet-equal"]
WINDOW, HELD_OUT, CROP = (-160.0, 240.0), 2, 256  # HU; slices; side of the middle that is scored


@dataclass
class Learner:
    """A network that learns, with the CPU seconds of its steps and the PSNR after each turn."""

    name: str
    network: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    seconds: float = 0.0
    course: list[tuple[float, float]] = field(default_factory=list)

    def learn(self, slices: Tensor, steps: int, batch: int, patch: int, noise: float) -> None:
        """Make some steps on patches ``(batch, 1, patch, patch)``."""
        self.network.train()
        begin = time.process_time()
        for _ in range(steps):
            clean = torch.stack([self._patch(slices, patch) for _ in range(batch)])
            noisy = clean + noise * torch.randn(clean.shape, generator=self.generator)
            self.optimizer.zero_grad()
            nn.functional.l1_loss(self.network(noisy), clean).backward()
            self.optimizer.step()
        self.seconds += time.process_time() - begin

    def _patch(self, slices: Tensor, side: int) -> Tensor:
        index, x, y = (
            int(torch.randint(limit, (), generator=self.generator))
            for limit in (len(slices), slices.shape[1] - side + 1, slices.shape[2] - side + 1)
        )
        return slices[index, x : x + side, y : y + side][None]

    def score(self, slices: Tensor, noise: float) -> None:
        """Note the PSNR of the slices held out, with one fixed noise, at a range of 1."""
        self.network.eval()
        fixed = torch.Generator().manual_seed(1)
        noisy = slices[:, None] + noise * torch.randn(slices[:, None].shape, generator=fixed)
        with torch.no_grad():
            error = torch.cat([self.network(one[None]) for one in noisy])[:, 0] - slices
        self.course.append((self.seconds, -10 * math.log10(float(error.square().mean()))))

    def reached(self, target: float) -> float | None:
        """Return the CPU seconds until a PSNR was reached."""
        return next((seconds for seconds, psnr in self.course if psnr >= target), None)


def read_slices() -> Tensor:
    """Return the slices of the series that ships, in the window as [0, 1], shape ``(N, X, Y)``."""
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(DEMO).extractall(folder)
        voxels = torch.as_tensor(read_series(folder).array)
    low, high = WINDOW
    return ((voxels - low) / (high - low)).clamp(0, 1).movedim(-1, 0).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=EQUAL)
    parser.add_argument("--targets", type=float, nargs="+", default=[30.0, 31.0, 32.0, 33.0], help="PSNR in dB")
    parser.add_argument("--noise", type=float, default=0.05, help="standard deviation, of the window's width")
    parser.add_argument("--limit-seconds", type=float, default=600, help="CPU time of each network")
    parser.add_argument("--steps", type=int, default=20, help="of a turn")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    slices = read_slices()
    low = (slices.shape[1] - CROP) // 2, (slices.shape[2] - CROP) // 2
    held_out = slices[-HELD_OUT:, low[0] : low[0] + CROP, low[1] : low[1] + CROP]
    learners = []
    for name in options.networks:
        torch.manual_seed(0)
        network = NETWORKS[name][1]()
        optimizer = torch.optim.Adam(network.parameters(), options.learning_rate)
        learners.append(Learner(name, network, optimizer, torch.Generator().manual_seed(0)))
    going = list(learners)
    while going:
        for learner in going:
            learner.learn(slices[:-HELD_OUT], options.steps, options.batch, options.patch, options.noise)
            learner.score(held_out, options.noise)
            print(f"{learner.name}: {learner.seconds:.0f} s, {learner.course[-1][1]:.2f} dB", file=sys.stderr)
        done = {one.name for one in going if one.reached(max(options.targets)) is not None}
        going = [one for one in going if one.name not in done and one.seconds < options.limit_seconds]

    print(
        "| network | parameters | "
        + " | ".join(f"s to {target:g} dB | of {options.networks[0]}" for target in options.targets)
        + " |"
    )
    print("|---|---|" + "---|---|" * len(options.targets))
    for learner in learners:
        cells = []
        for target in options.targets:
            own, first = learner.reached(target), learners[0].reached(target)
            cells += [f"{own:.0f}" if own else "not reached", f"{own / first:.2f}" if own and first else ""]
        parameters = sum(one.numel() for one in learner.network.parameters())
        print(f"| {NETWORKS[learner.name][0]} | {parameters / 1e6:.2f} M | {' | '.join(cells)} |")
    if options.json is not None:
        rows = [{"name": one.name, "course": one.course} for one in learners]
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
