"""Draw effective receptive fields, as in figures 1 and 9 of Restore-RWKV; prints a Markdown table beside.

    python scripts/experiments/receptive_field.py -o field.png            # the combinations of the paper's figure 9
    python scripts/experiments/receptive_field.py -o field.png --only shipped re-wkv/omni bi-wkv-columns/omni sum/omni
    python scripts/experiments/receptive_field.py -o field.png --weights re-wkv/omni=runs/re_wkv/model.pt

A field is how much each pixel of the input changes the middle pixel of the output: the absolute gradient, averaged over
images of noise (Luo et al., https://arxiv.org/abs/1701.04128). The input that the network adds to its output is left
out. ``ATTENTION/SHIFT`` is an override of ``network_def`` in the bundle's ``train.json``, with weights as training
starts unless ``--weights`` names a file; ``shipped`` is the bundle as it is. The table has the share of the picture,
as a centered square, that holds 50, 90 and 99 % of a field.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import nn

from medrestore_monai.bundles import find_bundle
from medrestore_monai.networks.rwkv_blocks import ATTENTIONS, SCANS
from medrestore_monai.networks.token_shifts import TOKEN_SHIFTS

NAMES = tuple(f"{attention}/{shift}" for attention in (*ATTENTIONS, *SCANS) for shift in TOKEN_SHIFTS)
FIGURE_9 = ("uni-wkv/uni", "bi-wkv/quad", "re-wkv/omni")
SHARES = (0.5, 0.9, 0.99)


def effective_receptive_field(network: nn.Module, images: torch.Tensor) -> np.ndarray:
    """Return the mean absolute gradient of the change of the middle pixel by each pixel of the input.

    Args:
        network: from ``(B, C, H, W)`` to the same shape, the input included.
        images: shape ``(B, C, H, W)``.

    Returns:
        Shape ``(H, W)``, float64; channels are summed.
    """
    total = np.zeros(images.shape[2:])
    for image in images.split(1):
        seen = image.clone().requires_grad_(True)
        row, column = (side // 2 for side in image.shape[2:])
        change = (network(seen) - seen)[0, :, row, column].sum()
        (gradient,) = torch.autograd.grad(change, seen)
        total += gradient[0].abs().sum(dim=0).double().numpy()
    return total / len(images)


def area_of(field: np.ndarray, share: float) -> float:
    """Return the part of the picture in the smallest square around its middle pixel that holds ``share`` of a field."""
    row, column = (side // 2 for side in field.shape)
    for reach in range(max(field.shape)):
        inside = field[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
        if inside.sum() >= share * field.sum():
            break
    return inside.size / field.size


def build(name: str, bundle: str, weights: Path | None) -> nn.Module:
    """Return the network of a name, for inference with gradients."""
    found = find_bundle(bundle)
    parser = ConfigParser()
    parser.read_config([str(found.config("train"))])
    if name != "shipped":
        attention, shift = name.split("/")
        parser.update({"network_def#attention": attention, "network_def#token_shift": shift})
    else:
        weights = weights or found.root / "models" / "model.pt"
    network: nn.Module = parser.get_parsed_content("network_def")
    if weights is None:
        nn.init.kaiming_uniform_(network.output.weight, a=5**0.5)  # it starts close to 0: only the scale would differ
    else:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()


def draw(fields: Mapping[str, np.ndarray], path: Path) -> None:
    """Write the figure: one panel a network, gray by the fourth root of the field over its maximum."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(fields), 3.3), layout="constrained")
    for place, (name, field) in enumerate(fields.items(), start=1):
        axes = figure.add_subplot(1, len(fields), place, title=name)
        axes.imshow((field / field.max()) ** 0.25, cmap="gray_r", vmin=0, vmax=1)
        axes.set_axis_off()
    figure.savefig(path, dpi=150)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--only", nargs="+", choices=("shipped", *NAMES), default=FIGURE_9, metavar="NAME")
    parser.add_argument("--weights", nargs="+", default=(), metavar="NAME=FILE")
    parser.add_argument("--bundle", default="mri_superresolution_restore_rwkv")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.weights = {name: Path(file) for name, _, file in (one.partition("=") for one in options.weights)}
    if unknown := sorted(options.weights.keys() - set(options.only)):
        parser.error(f"--weights names {', '.join(unknown)}, which --only does not.")
    if min(options.size, options.images) < 1:
        parser.error("--size and --images must be positive.")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    fields = {}
    for name in options.only:
        torch.manual_seed(options.seed)
        try:
            network = build(name, options.bundle, options.weights.get(name))
        except (OSError, RuntimeError) as error:
            sys.exit(f"Error: {name}: {error}")
        torch.manual_seed(options.seed)
        images = torch.rand(options.images, 1, options.size, options.size)
        fields[name] = effective_receptive_field(network, images)
    draw(fields, options.output)
    print("| network | " + " | ".join(f"{share:.0%} of the field in" for share in SHARES) + " |\n|---|---|---|---|")
    for name, field in fields.items():
        print(f"| {name} | " + " | ".join(f"{area_of(field, share):.1%}" for share in SHARES) + " |")


if __name__ == "__main__":
    main()
