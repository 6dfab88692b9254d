"""Adapt the weights for CT to one patient without targets, and test on another: the estimate beside full dose.

    python scripts/experiments/adapt_none/adapt_pairs.py PAIRS OUTPUT.json [--steps 60] [--rate 5e-4] [--change median]
    python scripts/experiments/adapt_none/adapt_pairs.py PAIRS OUTPUT.json --steps 7500 --patch 64 --weights FOLDER

PAIRS is that of ``null_candidates.py``. Only gains train, toward the share of the noise that the shipped weights let
pass, as in the command. Quarters of the other patient's slices are the units where there are fewer than five. With
``--change``, the images are filtered or turned before, in a way that the command does not recognize and refuse. With
``--weights``, those adapted to a patient are written as ``FOLDER/<patient>.pt``.
"""

import argparse
import copy
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pairs import CHANGES, Pair, Probed, by_spectrum, nothing, read_pairs, restore_with, shipped_network
from torch import nn

from medrestore_monai.adapt.estimated_verdict import LEAST_UNITS, decide_without_targets
from medrestore_monai.adapt.guards import guard_kept, measure_guards
from medrestore_monai.adapt.recorruption import ALPHA, most_kept, recorrupt
from medrestore_monai.audit.volume import Volume

_WARM_UP, _AVERAGE = 10, 0.95


def gains(network: nn.Module) -> list[nn.Parameter]:
    """Return the one-dimensional weights: scales and shifts of channels, decays; no matrix."""
    return [weight for name, weight in network.named_parameters() if weight.ndim == 1 or "gamma" in name]


def adapted(network: nn.Module, pairs: list[Pair], kept: float, options: argparse.Namespace) -> nn.Module:
    """Fine-tune a copy of the network on recorrupted crops; return the moving average of its weights."""
    trained, average = copy.deepcopy(network).train(), copy.deepcopy(network)
    weights = gains(trained)
    for weight in trained.parameters():
        weight.requires_grad_(any(weight is one for one in weights))
    optimizer = torch.optim.Adam(weights, lr=options.rate)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    for step in range(options.steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / options.steps))
        optimizer.param_groups[0]["lr"] = options.rate * min(1.0, (step + 1) / _WARM_UP) * cosine
        given, wanted = [], []
        for pair in (pairs[number] for number in rng.integers(0, len(pairs), 2)):
            x, y = (int(rng.integers(0, size - options.patch + 1)) for size in pair.low.shape[1:3])
            place = (slice(x, x + options.patch), slice(y, y + options.patch), slice(0, 1))
            low = pair.low[(slice(None), *place)]
            one, target = recorrupt(low, pair.noise.cropped(place).draw(generator), kept=kept)
            given.append(one[..., 0])
            wanted.append(target[..., 0])
        image = ((torch.stack(given) + 1024) / 4096).clamp(0, 1)
        loss = (trained(image) - (torch.stack(wanted) + 1024) / 4096).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), trained.parameters(), strict=True):
                mean.lerp_(weight, 1 - _AVERAGE)
    return average


def quarters(pair: Pair) -> list[Pair]:
    """Return the pair four times, each with a quarter of its mask."""
    middle = [size // 2 for size in pair.mask.shape[1:3]]
    parts = []
    for x in (slice(None, middle[0] - 12), slice(middle[0] + 12, None)):  # 20 mm between them
        for y in (slice(None, middle[1] - 12), slice(middle[1] + 12, None)):
            mask = torch.zeros_like(pair.mask)
            mask[:, x, y] = pair.mask[:, x, y]
            parts.append(replace(pair, mask=mask))
    return parts


def of_part(probed: Probed, part: Pair) -> Probed:
    one = copy.copy(probed)
    one.pair = part
    one.probes = [
        (probe, moved, float(noise.std[part.mask].double().square().mean()))
        for (probe, moved, _), noise in zip(probed.probes, (part.noise, part.noise.of_family()), strict=True)
    ]
    return one


def judge(before: list[Probed], after: list[Probed], kept: float) -> dict:
    """Return the verdict on slices, or on quarters of fewer than five, and the gain in truth.

    Guards are measured where the estimate alone would adopt.
    """
    parts = (lambda pair: [pair]) if len(before) >= LEAST_UNITS else quarters
    old, new = ([of_part(one, part) for one in all_of for part in parts(one.pair)] for all_of in (before, after))
    figures = [by_spectrum([one.risks(nothing) for one in all_of]) for all_of in (old, new)]
    verdict = decide_without_targets(*figures, range(len(old)), kept)
    alone = verdict.adopt
    if alone:
        passed = [float(np.mean([one.passed for one in spectra[0]])) for spectra in figures]
        guards = [guard_kept(*passed), *_guards(before, after)]
        verdict = decide_without_targets(*figures, range(len(old)), kept, guards)
    truth = [10 * math.log10(a.error(nothing) / b.error(nothing)) for a, b in zip(before, after, strict=True)]
    return {
        "estimated_db": verdict.gain,
        "truth_db": float(np.mean(truth)),
        "adopted": verdict.adopt,
        "adopted_without_guards": alone,
        "reasons": verdict.reasons,
    }


def _guards(before: list[Probed], after: list[Probed]) -> list:
    images = [[one.pair.low for one in before], [one.result for one in before], [one.result for one in after]]
    spacing = before[0].pair.noise.spacing
    source, shipped, new = (Volume(torch.cat(one, dim=-1)[0].numpy(), "CT", spacing) for one in images)
    return measure_guards(source, shipped, new)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--kernel", default="D45")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--change", choices=CHANGES, default="")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="that the adapted weights are written to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = shipped_network()
    pairs = read_pairs(options.pairs, options.kernel, options.side, change=options.change)
    before = {number: Probed(pair, restore_with(network), number) for number, pair in enumerate(pairs)}
    results = []
    for patient in sorted({pair.patient for pair in pairs}):
        own = [number for number, pair in enumerate(pairs) if pair.patient == patient]
        others = [number for number in before if number not in own]
        kept = float(np.median([before[number].risks(nothing)[0].passed for number in own]))
        began = time.process_time()
        new = adapted(network, [pairs[number] for number in own], min(kept, most_kept(ALPHA)), options)
        minutes = (time.process_time() - began) / 60
        if options.weights:
            options.weights.mkdir(parents=True, exist_ok=True)
            torch.save(new.state_dict(), options.weights / f"{patient}.pt")
        after = {number: Probed(pairs[number], restore_with(new), number) for number in others}
        judged = judge([before[number] for number in others], [after[number] for number in others], kept)
        row = {"adapted_to": patient, "kept": round(kept, 3), "cpu_minutes": round(minutes, 1), **judged}
        results.append(row)
        print(json.dumps(row, indent=1), flush=True)
    options.output.write_text(
        json.dumps(
            {"settings": vars(options) | {"pairs": "", "output": "", "weights": ""}, "results": results}, indent=1
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
