"""Train the nine networks of Restore-RWKV's table 5 alike and briefly, and compare them; prints a Markdown table.

    python scripts/experiments/ablation.py DATA -o ablation.csv                 # MRI super-resolution, 300 steps each
    python scripts/experiments/ablation.py DATA -o ablation.csv --steps 600 --only re-wkv/omni uni-wkv/uni
    python scripts/experiments/ablation.py DATA -o ablation.csv --bundle ct_denoise_restore_rwkv
    python scripts/experiments/ablation.py DATA -o scans.csv --only bi-wkv/omni bi-wkv-columns/omni sum/omni re-wkv/omni

Attention is Uni-WKV, Bi-WKV or Re-WKV; the token shift Uni-, Quad- or Omni-Shift. The last command compares scans of
tables 6 and 7: along rows, along columns, both summed, and Re-WKV; ``alternating/omni`` changes the direction from
block to block. Each is an override of ``network_def`` in the bundle's ``train.json`` and ``train_cpu.json``; all see
the same patches in the same order and start from one seed. PSNR and SSIM are those of the bundle's validation part
after the last step. A finished network is a row in the file at once: started again, the command goes on with those that
are missing. Times are CPU seconds of forward, backward and optimizer, the median of all steps.
"""

import argparse
import itertools
from collections.abc import Sequence

import equal_steps

from medrestore_monai.networks.rwkv_blocks import ATTENTIONS, SCANS
from medrestore_monai.networks.token_shifts import TOKEN_SHIFTS

OF_TABLE_5 = tuple(itertools.product(reversed(ATTENTIONS), reversed(tuple(TOKEN_SHIFTS))))
OF_TABLES_6_AND_7 = tuple((scan, "omni") for scan in SCANS)
VARIANTS = {
    f"{attention}/{shift}": {"network_def#attention": attention, "network_def#token_shift": shift}
    for attention, shift in OF_TABLE_5 + OF_TABLES_6_AND_7
}


def print_table(rows: Sequence[dict[str, str]]) -> None:
    """Print the rows, the original RWKV first."""
    order = list(VARIANTS)
    print("| attention | token shift | seed | parameters | PSNR (dB) | SSIM | s/step |\n|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (order.index(row["variant"]), int(row["seed"]))):
        print(f"| {' | '.join([*row['variant'].split('/'), *(row[name] for name in equal_steps.RESULTS[1:])])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    equal_steps.add_options(parser, bundle="mri_superresolution_restore_rwkv", steps=300, epochs=4, batch=8)
    names = [f"{attention}/{shift}" for attention, shift in OF_TABLE_5]
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=names, metavar="ATTENTION/SHIFT")
    options = equal_steps.parse(parser)
    print_table(equal_steps.compare(options, {name: VARIANTS[name] for name in options.only}))


if __name__ == "__main__":
    main()
