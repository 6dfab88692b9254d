"""Size, multiply-adds and time of the deblurring networks and classical methods, side by side; Markdown tables.

    python scripts/benchmark/deblurring.py                               # one 512x512 color picture, 2 threads
    python scripts/benchmark/deblurring.py --height 720 --width 1280     # as GoPro's, the paper's table 5
    python scripts/benchmark/deblurring.py --training --threads 1 --rounds 5

Networks are those of the bundles' configurations: as shipped, in the paper's size (``base.json``), and those to compare
with. Weights are random; batch normalization is merged into convolutions where a network can. Multiply-adds are of
products (convolutions and matrices) only. All take turns, round after round, and the table shows the smallest time:
wall time, and CPU time of all threads, which other work on the machine disturbs least. ``--training`` times a step
instead (forward, the configuration's loss, backward, Adam; float32) with patches of ``--patch`` pixels.
"""

import argparse
import time
from collections.abc import Callable

import torch
from monai.bundle import ConfigParser
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medrestore_monai.bundles import find_bundle
from medrestore_monai.classical import METHODS

AFF, MLFF, MED = "rgb_deblur_aff_unet_rwkv", "rgb_deblur_mlff_unet", "multimodal_deblur_meddeblur"
NETWORKS: dict[str, tuple[str, ...]] = {  # a bundle, and what is laid over its train.json
    "AFF-UNet-RWKV, shipped": (AFF,),
    "AFF-UNet-RWKV, full": (AFF, "base"),
    "MLFF-DMRFAB U-Net, shipped": (MLFF,),
    "MLFF-DMRFAB U-Net, full": (MLFF, "base"),
    "MedDeblur, shipped": (MED,),
    "MedDeblur, full": (MED, "base"),
    "UNet (MONAI), narrow": (AFF, "unet"),
    "SRN-Deblur, narrow": (AFF, "srn"),
    "DeblurGAN generator, narrow": (AFF, "deblurgan"),
}
CLASSICAL = {
    "unsharp masking": ("unsharp_masking", {"sigma": 2.0, "amount": 1.0}),
    "Wiener": ("wiener", {"sigma": 2.0, "balance": 0.01}),
    "Richardson-Lucy, 10 iterations": ("richardson_lucy", {"sigma": 2.0, "iterations": 10}),
}


def configured(bundle: str, *overlays: str) -> ConfigParser:
    """Read a bundle's ``train.json`` with what is laid over it."""
    parser = ConfigParser()
    parser.read_config([str(find_bundle(bundle).config(name)) for name in ("train", *overlays)])
    parser["device"] = torch.device("cpu")
    return parser


def for_inference(network: nn.Module) -> nn.Module:
    """Merge what can be merged, as ``medrestore restore`` does."""
    merged = getattr(network, "merged", None)
    return (merged() if merged else network).eval().requires_grad_(False)


def training_step(parser: ConfigParser, network: nn.Module, batch: int, patch: int) -> Callable[[], None]:
    """Return one step of training, whose state lives on."""
    loss = parser.get_parsed_content("loss")
    learner = parser.get_parsed_content("train::trainer::network")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    label = torch.rand(batch, 3, patch, patch)
    image = label + 0.05 * torch.randn_like(label)

    def step() -> None:
        optimizer.zero_grad()
        loss(learner(image), label).backward()
        optimizer.step()

    return step


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Return wall time and CPU time of a call, in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def multiply_adds(network: nn.Module, image: torch.Tensor) -> float:
    """Multiply-adds for one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops() / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--training", action="store_true", help="time a training step instead")
    parser.add_argument("--patch", type=int, default=64, help="side of the training patches")
    parser.add_argument("--batch", type=int, default=8, help="patches in a step")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    image = torch.rand(1, 3, options.height, options.width)
    sizes: dict[str, tuple[float, float]] = {}
    calls: dict[str, Callable[[], object]] = {}
    for name, (bundle, *overlays) in NETWORKS.items():
        configuration = configured(bundle, *overlays)
        network = configuration.get_parsed_content("network")
        million = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        if not options.training:
            ready = for_inference(network)
            sizes[name] = million, multiply_adds(ready, image) / 1e9
            calls[name] = lambda ready=ready: ready(image)
        elif "discriminator" not in configuration:  # a GAN's loss is that of two networks
            sizes[name] = million, float("nan")
            calls[name] = training_step(configuration, network.train(), options.batch, options.patch)
    if not options.training:
        planes = image[0].double().numpy()
        for name, (method, arguments) in CLASSICAL.items():
            calls[name] = lambda method=method, arguments=arguments: METHODS[method](planes, **arguments)
    best = dict.fromkeys(calls, (float("inf"), float("inf")))
    for _ in range(options.rounds + 1):  # the smallest time leaves out the first, slower round
        for name, call in calls.items():
            best[name] = min(best[name], timed(call))
    side = options.patch
    what = f"a step of {options.batch} patches of {side}x{side}" if options.training else f"{tuple(image.shape[1:])}"
    print(f"{torch.backends.cpu.get_cpu_capability()}, {options.threads} threads, {what}\n")
    print("| | million parameters | MB | G multiply-adds | wall, s | CPU, s | wall, relative |")
    print("|---|---|---|---|---|---|---|")
    first = next(iter(best.values()))[0]
    for name, (wall, cpu) in best.items():
        million, work = sizes.get(name, (float("nan"), float("nan")))
        cells = "| | |" if million != million else f"| {million:.2f} | {4 * million:.1f} | {work:.1f}"
        print(f"| {name} {cells} | {wall:.3f} | {cpu:.3f} | {wall / first:.2f} |".replace("nan", ""))


if __name__ == "__main__":
    main()
