"""Average the weights of a bundle with those of a training that started from them.

    python scripts/train/average_weights.py OLD NEW OUTPUT [--share 0.6]

Weights on the line between both often keep what the old ones knew and gain most of what the training added (Wortsman
et al., Robust fine-tuning of zero-shot models, CVPR 2022). Choose the share by validation. Old weights of less context
than the new ones get zeros for the neighbors, as trainings start from them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from medrestore_monai.files import atomic_file
from medrestore_monai.networks import RestoreRWKV


def average(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """Return ``share`` of ``new`` and the rest of ``old``; whole numbers, such as counters, are those of ``new``.

    Raises:
        ValueError: if the weights are of different networks or ``share`` is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share}.")
    if "embed.weight" in new:
        network = RestoreRWKV(context=new["embed.weight"].shape[1] // 2, dim=8, num_blocks=[1] * 4)
        old = network.with_neighbors(old)
    if {name: value.shape for name, value in old.items()} != {name: value.shape for name, value in new.items()}:
        raise ValueError("The weights are of different networks.")
    return {
        name: torch.lerp(old[name], value, share) if value.is_floating_point() else value for name, value in new.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, text in (("old", "weights before the training"), ("new", "after it"), ("output", "file to write")):
        parser.add_argument(name, type=Path, help=text)
    parser.add_argument("--share", type=float, default=0.6, help="of the new weights (default: %(default)s)")
    options = parser.parse_args(arguments)
    old, new = (torch.load(path, map_location="cpu", weights_only=True) for path in (options.old, options.new))
    with atomic_file(options.output) as file:
        torch.save(average(old, new, options.share), file)


if __name__ == "__main__":
    main()
