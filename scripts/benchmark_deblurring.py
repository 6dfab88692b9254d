"""Size, multiply-adds and training step of the deblurring networks, side by side; prints a Markdown table.

    OMP_NUM_THREADS=1 python scripts/benchmark_deblurring.py
    OMP_NUM_THREADS=1 python scripts/benchmark_deblurring.py --in-channels 3 --batch 4 --rounds 5

A step is forward, the paper's loss, backward and Adam in float32, on one thread. Times are CPU seconds of an image, the
smallest of all rounds, in which the networks take turns. Multiply-adds are of one image without gradients, of products
(convolutions and matrices) only.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medrestore_monai.losses import RestorationLoss
from medrestore_monai.networks import AFFUNetRWKV, DeblurGANGenerator, MedDeblur, MLFFUNet, SRNDeblur

AFF, MLFF, MED = {"l1": 1, "charbonnier": 1, "ssim": 0.2}, {"mse": 1, "frequency": 0.1}, {"l1": 1}
NETWORKS: dict[str, tuple[type[nn.Module], dict, dict]] = {
    "AFF-UNet-RWKV": (AFFUNetRWKV, {}, AFF),
    "AFF-UNet-RWKV, 16 to 128": (AFFUNetRWKV, {"channels": (16, 32, 64, 128)}, AFF),
    "AFF-UNet-RWKV, without mixer": (AFFUNetRWKV, {"mixer": False}, AFF),
    "MLFF-DMRFAB U-Net": (MLFFUNet, {}, MLFF),
    "MLFF-DMRFAB U-Net, 16 to 128, growth 32": (MLFFUNet, {"channels": (16, 32, 64, 128), "growth": 32}, MLFF),
    "MedDeblur": (MedDeblur, {}, MED),
    "MedDeblur, 16 to 64": (MedDeblur, {"channels": (16, 32, 64)}, MED),
    "MedDeblur, 16, 16, 32": (MedDeblur, {"channels": (16, 16, 32)}, MED),
    "SRN-Deblur": (SRNDeblur, {}, MED),
    "DeblurGAN generator": (DeblurGANGenerator, {}, MED),
}


def training_step(network: nn.Module, loss: nn.Module, shape: tuple[int, ...]) -> Callable[[], None]:
    """Return one step of training, whose state lives on."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    label = torch.rand(shape)
    image = label + 0.05 * torch.randn_like(label)

    def step() -> None:
        optimizer.zero_grad()
        loss(network(image), label).backward()
        optimizer.step()

    return step


def seconds(function: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.thread_time()
    function()
    return time.thread_time() - start


def multiply_adds(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Multiply-adds of one image of a batch."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape[1:]))
    return counter.get_total_flops() / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-channels", type=int, default=1)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    channels = arguments.in_channels
    shape = (arguments.batch, channels, arguments.patch, arguments.patch)
    networks = {name: kind(channels, channels, **options) for name, (kind, options, _) in NETWORKS.items()}
    steps = {name: training_step(networks[name], RestorationLoss(**NETWORKS[name][2]), shape) for name in NETWORKS}
    training, inference = dict.fromkeys(NETWORKS, float("inf")), dict.fromkeys(NETWORKS, float("inf"))
    image = torch.rand(shape)
    for _ in range(arguments.rounds + 1):  # the smallest time leaves out the first, slower round
        for name, network in networks.items():
            network.train()
            training[name] = min(training[name], seconds(steps[name]) / arguments.batch)
            network.eval()
            with torch.inference_mode():
                inference[name] = min(
                    inference[name], seconds(lambda network=network: network(image)) / arguments.batch
                )
    print("| network | million parameters | GMAC | step, s an image | inference, s an image |\n|---|---|---|---|---|")
    for name, network in networks.items():
        million = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        work = multiply_adds(network.eval(), shape) / 1e9
        print(f"| {name} | {million:.2f} | {work:.2f} | {training[name]:.3f} | {inference[name]:.3f} |")


if __name__ == "__main__":
    main()
