"""Train the rows of MLFF-DMRFAB's tables 2 and 6 alike and briefly, and compare them; prints a Markdown table.

    python scripts/experiments/mlff_ablation.py data/rgb -o mlff.csv               # 200 steps each from seed 0
    python scripts/experiments/mlff_ablation.py data/rgb -o mlff.csv --seeds 1 --only all    # what chance does
    python scripts/experiments/mlff_ablation.py data/rgb -o long.csv --steps 2000 --only all mse no-mlff

Table 2 compares losses: the mean squared error alone, with SSIM, and with the frequency loss in the paper's scale;
``ortho`` and ``shipped`` are ours: the orthonormal frequency loss, beside the mean squared error and beside L1. The
paper's fourth loss, ``perceptual``, needs lpips, torchvision and their weights on the disk and is not among the
defaults. Table 6 leaves out one part of the network, by the loss of ``all``: wavelets, the DMRFAB, its attention, or
the MLFF.

Each is an override of the bundle's ``train.json`` and ``train_cpu.json``; within a seed, all see the same patches in
the same order. PSNR and SSIM are those of the bundle's validation part after the last step, whose blur is the same for
all seeds; differences are those from ``all`` of the same seed, averaged over the seeds. A finished network is a row in
the file at once: started again, the command goes on with those that are missing. Times are CPU seconds of forward,
backward and optimizer, the median of all steps.
"""

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import equal_steps

PAPER = {"mse": 1, "frequency": 0.1, "norm": "backward"}
LOSSES: dict[str, dict[str, Any]] = {
    "all": PAPER,
    "mse": {"mse": 1},
    "ssim": {"mse": 1, "ssim": 0.2},
    "perceptual": {"mse": 1, "perceptual": 0.5},
    "ortho": {**PAPER, "norm": "ortho"},
    "shipped": {"l1": 1, "frequency": 0.1},
}
PARTS = {"no-wavelets": "wavelets", "no-dmrfab": "dmrfab", "no-attention": "attention", "no-mlff": "mlff"}
VARIANTS: dict[str, dict[str, Any]] = {
    name: {"loss": {"_target_": "medrestore_monai.losses.RestorationLoss", **loss}} for name, loss in LOSSES.items()
}
VARIANTS |= {name: {**VARIANTS["all"], f"network_def#{part}": False} for name, part in PARTS.items()}
LABELS = {
    "all": "all parts, MSE + 0.1 frequency",
    "mse": "MSE alone",
    "ssim": "MSE + 0.2 SSIM",
    "perceptual": "MSE + 0.5 perceptual",
    "ortho": "MSE + 0.1 frequency, orthonormal",
    "shipped": "L1 + 0.1 frequency, orthonormal",
    "no-wavelets": "without wavelets",
    "no-dmrfab": "without DMRFAB",
    "no-attention": "without attention",
    "no-mlff": "without MLFF",
}


def table(rows: Sequence[dict[str, str]]) -> list[str]:
    """Return the rows of a Markdown table, one a variant, in the paper's order."""
    scores = {(row["variant"], row["seed"]): (float(row["psnr"]), float(row["ssim"])) for row in rows}
    seeds = sorted({row["seed"] for row in rows}, key=int)
    head = ["variant", "parameters", *(f"seed {seed}" for seed in seeds), "difference, dB", "of SSIM", "s/step"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant]
        if not own:
            continue
        given = [scores.get((variant, seed)) for seed in seeds]
        cells = [f"{score[0]:.2f} / {score[1]:.4f}" if score else "" for score in given]
        pairs = [(score, scores.get(("all", seed))) for score, seed in zip(given, seeds, strict=True)]
        both = [(score, full) for score, full in pairs if score and full]
        differences = [
            f"{statistics.mean(score[i] - full[i] for score, full in both):+.{digits}f}" if both else ""
            for i, digits in ((0, 2), (1, 4))
        ]
        seconds = f"{statistics.median(float(row['seconds_per_step']) for row in own):.3f}"
        lines.append(f"| {' | '.join([LABELS[variant], own[0]['parameters'], *cells, *differences, seconds])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    equal_steps.add_options(parser, bundle="rgb_deblur_mlff_unet", steps=200, epochs=20, batch=4)
    names = [name for name in VARIANTS if name != "perceptual"]
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=names, metavar="VARIANT")
    options = equal_steps.parse(parser)
    print("\n".join(table(equal_steps.compare(options, {name: VARIANTS[name] for name in options.only}))))


if __name__ == "__main__":
    main()
