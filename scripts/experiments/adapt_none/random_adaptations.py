"""Random adaptations without targets, most with wrong noise: how many are adopted, and are these worse in truth?

    python scripts/experiments/adapt_none/random_adaptations.py PAIRS OUTPUT.json [--kernel B30] [--minutes 15]
    python scripts/experiments/adapt_none/random_adaptations.py PAIRS OUTPUT.json --count 20 --each 5 --minutes 150

PAIRS is that of ``null_candidates.py``. Each adaptation trains on one patient, for 10 to 30 steps or for ``--each`` CPU
minutes, with settings drawn at random: noise as measured, of another level, white, or of the other patient's slices;
another share to keep; a learning rate up to twenty times that of the command. It is judged on the other patient as
``adapt --targets none`` judges, slices being the units (quarters of slices where there are fewer than five), and scored
against full dose. Guards are measured of those that would be adopted without them. None that is worse by more than
0.05 dB may be adopted.
"""

import argparse
import copy
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from adapt_pairs import adapted, judge
from pairs import Pair, Probed, nothing, read_pairs, restore_with, shipped_network
from torch import Tensor, nn

from medrestore_monai.adapt.estimated_verdict import LEAST_GAIN
from medrestore_monai.adapt.recorruption import ALPHA, most_kept

KINDS = ("as measured", "wrong level", "white", "other patient", "wrong share")


@dataclass(frozen=True)
class White:
    """White noise of the standard deviation of a noise model; ``cropped`` and ``draw`` as there."""

    std: Tensor

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw noise."""
        return torch.randn(self.std.shape, generator=generator) * self.std

    def cropped(self, place: tuple[slice, ...]) -> "White":
        """Return the noise of a part."""
        return White(self.std[(slice(None), *place)])


def drawn(kind: str, rng: np.random.Generator, own: list[Pair], others: list[Pair]) -> tuple[list[Pair], float]:
    """Return the slices with the noise that the training draws, and the factor of its level."""
    factor = float(np.exp(rng.uniform(np.log(0.5), np.log(2.0)))) if kind == "wrong level" else 1.0
    if kind == "white":
        return [replace(pair, noise=White(pair.noise.std)) for pair in own], factor
    if kind == "other patient":
        chosen = rng.integers(0, len(others), len(own))
        return [replace(pair, noise=others[number].noise) for pair, number in zip(own, chosen, strict=True)], factor
    return [replace(pair, noise=pair.noise.scaled(factor)) for pair in own], factor


def _steps_in(options: argparse.Namespace, network: nn.Module, pairs: list[Pair]) -> int:
    """Return how many steps take ``options.each`` CPU minutes."""
    few = 12
    began = time.process_time()
    adapted(network, pairs, 0.0, argparse.Namespace(**{**vars(options), "steps": few, "rate": 0.0}))
    return round(few * 60 * options.each / (time.process_time() - began))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--kernel", default="B30")
    parser.add_argument("--minutes", type=float, default=15.0, help="after which no other one begins")
    parser.add_argument(
        "--each", type=float, default=0.0, help="CPU minutes that each trains for, instead of few steps"
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    network = shipped_network()
    pairs = read_pairs(options.pairs, options.kernel, options.side)
    before = [Probed(pair, restore_with(network), number) for number, pair in enumerate(pairs)]
    patients = sorted({pair.patient for pair in pairs})
    rng = np.random.default_rng(options.seed)
    most = options.each and _steps_in(options, network, pairs)
    rows: list[dict] = []
    while len(rows) < options.count and time.monotonic() - began < 60 * options.minutes:
        kind = KINDS[len(rows) % len(KINDS)]
        patient = patients[int(rng.integers(len(patients)))]
        own = [number for number, pair in enumerate(pairs) if pair.patient == patient]
        others = [number for number in range(len(pairs)) if number not in own]
        shipped = float(np.median([before[number].risks(nothing)[0].passed for number in own]))
        kept = float(rng.uniform(0, most_kept(ALPHA))) if kind == "wrong share" else min(shipped, most_kept(ALPHA))
        given, factor = drawn(kind, rng, [pairs[n] for n in own], [pairs[n] for n in others])
        few, rate = int(rng.integers(10, 31)), float(10 ** rng.uniform(-3.3, -2.0))
        steps = most or few
        settings = argparse.Namespace(**{**vars(options), "steps": steps, "rate": rate})
        new = adapted(copy.deepcopy(network), given, kept, settings)
        after = [Probed(pairs[number], restore_with(new), number) for number in others]
        row = {"kind": kind, "level": factor, "kept": kept, "steps": steps, "rate": rate, "adapted_to": patient}
        rows.append(row | judge([before[number] for number in others], after, shipped))
        options.output.write_text(json.dumps({"adaptations": rows}, indent=1) + "\n")
        print({name: rows[-1][name] for name in ("kind", "estimated_db", "truth_db", "adopted")}, flush=True)
    adopted, worse = ([row for row in rows if take(row)] for take in (_is_adopted, _is_worse))
    summary = {
        "kernel": options.kernel,
        "adaptations": len(rows),
        "worse_in_truth": len(worse),
        "better_in_truth": sum(row["truth_db"] > LEAST_GAIN for row in rows),
        "adopted": len(adopted),
        "adopted_and_worse": sum(row["adopted"] for row in worse),
        "worse_and_adopted_without_guards": sum(row["adopted_without_guards"] for row in worse),
        "truth_of_adopted_db": [round(row["truth_db"], 3) for row in adopted],
        "upper_limit_95": round(1 - 0.05 ** (1 / len(worse)), 3) if worse else 1.0,
    }
    options.output.write_text(json.dumps({"summary": summary, "adaptations": rows}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


def _is_adopted(row: dict) -> bool:
    return bool(row["adopted"])


def _is_worse(row: dict) -> bool:
    return bool(row["truth_db"] < -LEAST_GAIN)


if __name__ == "__main__":
    main()
