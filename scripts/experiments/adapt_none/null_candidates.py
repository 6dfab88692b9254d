"""Candidates that were never trained, judged without targets and against full dose.

    python scripts/experiments/adapt_none/null_candidates.py PAIRS OUTPUT.json [--kernel D45] [--count 140]

PAIRS holds ``<patient>/quarter_<kernel>/*`` and ``<patient>/full_<kernel>/*``, as in the AAPM low dose challenge. A
candidate is something done to the result of the shipped weights (another strength, blur, sharpening, random gains by
frequency, added noise, a shift, a mix with a filter) or, with ``--weights``, the shipped weights moved in a random
direction. Each is judged as an adaptation would be (slices are the units), and scored against full dose over soft
tissue: none that is worse by more than 0.05 dB may be adopted. "Right sign" counts candidates that truth moves by more
than 0.05 dB. Intervals are those of Clopper and Pearson. As in the command, the share of the noise to keep is the
median of what the shipped weights let pass.
"""

import argparse
import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from pairs import Operation, Pair, Probed, by_spectrum, nothing, read_pairs, restore_with, shipped_network
from scipy.ndimage import gaussian_filter, median_filter
from scipy.stats import binomtest
from torch import Tensor

from medrestore_monai.adapt.estimated_verdict import LEAST_GAIN, decide_without_targets
from medrestore_monai.adapt.guards import Guard, guard_kept, measure_guards
from medrestore_monai.audit.volume import Volume


def blurred(image: Tensor, sigma: float) -> Tensor:
    return torch.from_numpy(gaussian_filter(image.numpy(), (0, sigma, sigma, 0)))


def candidates(count: int, seed: int) -> Iterator[tuple[str, Operation]]:
    """Draw what is done to a result, kind by kind."""
    rng = np.random.default_rng(seed)
    kinds = [_strength, _blur, _sharpen, _bands, _noise, _shift, _mix, _contrast, _median]
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield kind.__name__[1:], kind(rng)


def _strength(rng: np.random.Generator) -> Operation:
    factor = rng.uniform(0.3, 1.6)
    return lambda image, result: image + factor * (result - image)


def _blur(rng: np.random.Generator) -> Operation:
    sigma = rng.uniform(0.3, 1.5)
    return lambda _, result: blurred(result, sigma)


def _sharpen(rng: np.random.Generator) -> Operation:
    amount, sigma = rng.uniform(0.05, 0.6), rng.uniform(0.6, 2.0)
    return lambda _, result: result + amount * (result - blurred(result, sigma))


def _bands(rng: np.random.Generator) -> Operation:
    gains = torch.from_numpy(1 + rng.uniform(-0.3, 0.3, 8)).float()

    def apply(_: Tensor, result: Tensor) -> Tensor:
        size = result.shape[1:3]
        fx, fy = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])[None, :]
        band = (torch.sqrt(fx**2 + fy**2) * 16).long().clamp(max=7)
        gain = gains[band]
        gain[0, 0] = 1
        return torch.fft.irfft2(torch.fft.rfft2(result[0, ..., 0]) * gain, s=size)[None, ..., None]

    return apply


def _noise(rng: np.random.Generator) -> Operation:
    level, sigma = rng.uniform(1, 12), rng.uniform(0, 1.5)
    side, drawn = 600, rng.standard_normal((600, 600))
    field = gaussian_filter(drawn, sigma)
    field = torch.from_numpy(field / field.std() * level).float()

    def apply(_: Tensor, result: Tensor) -> Tensor:
        x, y = min(result.shape[1], side), min(result.shape[2], side)
        return result + field[:x, :y][None, ..., None]

    return apply


def _shift(rng: np.random.Generator) -> Operation:
    shift = rng.choice([-1, 1]) * rng.uniform(0.5, 8)
    return lambda _, result: result + shift


def _mix(rng: np.random.Generator) -> Operation:
    part, sigma = rng.uniform(0.05, 0.8), rng.uniform(0.5, 2.0)
    return lambda image, result: (1 - part) * result + part * blurred(image, sigma)


def _contrast(rng: np.random.Generator) -> Operation:
    gain = 1 + rng.choice([-1, 1]) * rng.uniform(0.01, 0.1)
    return lambda _, result: 50 + gain * (result - 50)


def _median(rng: np.random.Generator) -> Operation:
    part, size = rng.uniform(0.05, 1.0), int(rng.choice([3, 5]))

    def apply(_: Tensor, result: Tensor) -> Tensor:
        return (1 - part) * result + part * torch.from_numpy(median_filter(result.numpy(), (1, size, size, 1)))

    return apply


def judge(name: str, shipped: list[Probed], adapted: list[Probed], operation: Operation, kept: float) -> dict:
    """Return the verdict of a candidate, and what it gains in truth."""
    before, after = ([one.risks(done) for one in all_of] for all_of, done in ((shipped, nothing), (adapted, operation)))
    units = range(len(shipped))
    verdict = decide_without_targets(by_spectrum(before), by_spectrum(after), units, kept)
    alone = verdict.adopt
    if verdict.adopt:
        passed = [float(np.mean([one[0].passed for one in figures])) for figures in (before, after)]
        guards = [guard_kept(*passed), *_guards(shipped, adapted, operation)]
        verdict = decide_without_targets(by_spectrum(before), by_spectrum(after), units, kept, guards)
    truth = [
        10 * math.log10(old.error(nothing) / new.error(operation)) for old, new in zip(shipped, adapted, strict=True)
    ]
    return {
        "kind": name,
        "estimated_db": verdict.gain,
        "truth_db": float(np.mean(truth)),
        "adopted": verdict.adopt,
        "adopted_without_guards": alone,
        "reasons": verdict.reasons,
    }


def _guards(shipped: list[Probed], adapted: list[Probed], operation: Operation) -> list[Guard]:
    pair = shipped[0].pair
    stacks = [
        torch.cat(images, dim=-1)[0].numpy()
        for images in (
            [one.pair.low for one in shipped],
            [one.result for one in shipped],
            [operation(one.pair.low, one.result) for one in adapted],
        )
    ]
    volumes = [Volume(one, "CT", pair.noise.spacing) for one in stacks]
    return measure_guards(*volumes, flags=False)


def random_weights(network: torch.nn.Module, rng: np.random.Generator) -> torch.nn.Module:
    """Move all weights in a random direction, by 0.3 to 5 % of the norm of each."""
    moved = copy.deepcopy(network)
    size = 10 ** rng.uniform(-2.5, -1.3)
    with torch.no_grad():
        for weight in moved.parameters():
            step = torch.from_numpy(rng.standard_normal(tuple(weight.shape))).to(weight)
            weight += size * weight.norm() / step.norm().clamp(min=1e-12) * step
    return moved


def report(rows: list[dict]) -> dict:
    """Return how often the estimate was right, and the worst that was adopted."""
    moved = [row for row in rows if abs(row["truth_db"]) > LEAST_GAIN and math.isfinite(row["estimated_db"])]
    right = sum(row["truth_db"] * row["estimated_db"] > 0 for row in moved)
    interval = binomtest(right, len(moved)).proportion_ci() if moved else (math.nan, math.nan)
    adopted = [row for row in rows if row["adopted"]]
    worse = [row for row in rows if row["truth_db"] < -LEAST_GAIN]
    return {
        "candidates": len(rows),
        "worse_in_truth": len(worse),
        "better_in_truth": sum(row["truth_db"] > LEAST_GAIN for row in rows),
        "adopted": len(adopted),
        "worst_adopted_db": min((row["truth_db"] for row in adopted), default=None),
        "worse_and_adopted": sum(row["adopted"] for row in worse),
        "upper_limit_95": round(_upper_limit([row["adopted"] for row in worse]), 4),
        "worse_and_adopted_without_guards": sum(row["adopted_without_guards"] for row in worse),
        "upper_limit_95_without_guards": round(_upper_limit([row["adopted_without_guards"] for row in worse]), 4),
        "right_sign": right,
        "of_moved": len(moved),
        "interval": [round(float(one), 3) for one in interval],
    }


def _upper_limit(adopted: list[bool]) -> float:
    """Return the one-sided upper limit of the share of adopted ones, at 95 %."""
    if not adopted:
        return 1.0
    return float(binomtest(sum(adopted), len(adopted), alternative="less").proportion_ci(0.95).high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--kernel", default="D45")
    parser.add_argument("--count", type=int, default=140)
    parser.add_argument("--weights", type=int, default=0, help="random directions of the weights, besides")
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--most", type=int, default=4, help="slices of each patient")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = shipped_network()
    pairs: list[Pair] = read_pairs(options.pairs, options.kernel, options.side, options.most)
    shipped = [Probed(pair, restore_with(network), seed) for seed, pair in enumerate(pairs)]
    own = [one.risks(nothing) for one in shipped]
    kept = float(np.median([figures[0].passed for figures in own]))
    for one, figures in zip(shipped, own, strict=True):
        first = figures[0]
        print(
            f"{one.pair.patient} {one.pair.kernel} {one.pair.name}: passed {first.passed:.3f}, own share "
            f"{first.own_kept:.3f}, T {first.variance:.0f}, error of reference at 0.25 "
            f"{first.error_of_reference(0.25):.1f}, truth {one.error(nothing):.1f}, "
            f"removed correlation {first.removed_correlation:.3f}",
            flush=True,
        )
    rows = [judge(name, shipped, shipped, done, kept) for name, done in candidates(options.count, options.seed)]
    rng = np.random.default_rng(options.seed)
    for _ in range(options.weights):
        restore = restore_with(random_weights(network, rng))
        moved = [Probed(pair, restore, seed) for seed, pair in enumerate(pairs)]
        rows.append(judge("random direction of the weights", shipped, moved, nothing, kept))
        print(rows[-1]["estimated_db"], rows[-1]["truth_db"], rows[-1]["adopted"], flush=True)
    summary = {"kernel": options.kernel, "kept": round(kept, 3), **report(rows)}
    options.output.write_text(json.dumps({"summary": summary, "candidates": rows}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
