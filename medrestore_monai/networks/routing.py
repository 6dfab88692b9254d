"""Task-adaptive routing after AMIR (Yang et al., arXiv 2405.19769): one network, a path of its own for each task.

No task label is needed: a prompt is read from the degraded image itself. Features are channels-last ``(B, H, W, C)``.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ChannelRouting", "RoutingPrompt", "SpatialRouting", "balance_loss"]


class RoutingPrompt(nn.Module):
    """Read from a degraded image which entries of a learned dictionary describe it.

    Three strided convolutions and a global average weigh the entries; the prompt is their weighted sum.

    Args:
        in_channels: channels of the image.
        prompt_channels: length ``P`` of an entry.
        entries: number of entries of the dictionary.
        width: channels of the first convolution, doubled by the next two.
    """

    def __init__(self, in_channels: int, prompt_channels: int = 256, entries: int = 16, width: int = 32) -> None:
        super().__init__()
        widths = (in_channels, width, 2 * width, 4 * width)
        self.encode = nn.Sequential()
        for before, after in pairwise(widths):
            self.encode.extend([nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()])
        self.weigh = nn.Linear(widths[-1], entries)
        self.dictionary = nn.Parameter(torch.randn(entries, prompt_channels))

    def forward(self, image: Tensor) -> Tensor:
        """Return the prompts ``(B, P)`` of images ``(B, in_channels, H, W)``."""
        features = self.encode(image).mean(dim=(2, 3))
        return self.weigh(features).softmax(dim=-1) @ self.dictionary


class SpatialRouting(nn.Module):
    """A mixture of experts: each pixel is changed by the two experts that its features and the prompt ask for.

    In training, noise on the choice lets every expert learn (Shazeer et al., arXiv 1701.06538, eq. 3-5).

    Args:
        channels: number of channels ``C``.
        prompt_channels: length ``P`` of the prompt.
        experts: number of experts, two-layer networks on the pixel's channels.
        chosen: how many of them a pixel takes.

    Raises:
        ValueError: if not ``1 <= chosen < experts``.
    """

    def __init__(self, channels: int, prompt_channels: int, experts: int = 4, chosen: int = 2) -> None:
        super().__init__()
        if not 1 <= chosen < experts:
            raise ValueError(f"chosen must be in 1..{experts - 1} for {experts} experts, got {chosen}.")
        self.chosen = chosen
        # choice and width of its noise, from the pixel and from the prompt
        self.from_pixel = nn.Linear(channels, 2 * experts, bias=False)
        self.from_prompt = nn.Linear(prompt_channels, 2 * experts)
        self.expand = nn.ModuleList(nn.Linear(channels, 2 * channels) for _ in range(experts))
        self.reduce = nn.ModuleList(nn.Linear(2 * channels, channels) for _ in range(experts))

    def forward(self, x: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Route ``(B, H, W, C)`` by prompts ``(B, P)``.

        Returns:
            ``x`` with what the experts add, of the same shape; and the balance loss, 0 outside of training.
        """
        logits, width = (self.from_pixel(x) + self.from_prompt(prompt)[:, None, None, :]).chunk(2, dim=-1)
        noisy, spread = logits, None
        if self.training:
            spread = F.softplus(width) + 1e-2
            noisy = logits + torch.randn_like(logits) * spread
        gates = top_gates(noisy, self.chosen)
        added = torch.zeros_like(x)
        for number, (expand, reduce) in enumerate(zip(self.expand, self.reduce, strict=True)):
            added = added + gates[..., number : number + 1] * reduce(F.gelu(expand(x)))
        if spread is None:
            return x + added, x.new_zeros(())
        return x + added, balance_loss(gates, logits, noisy, spread, self.chosen)


class ChannelRouting(nn.Module):
    """Scale and shift the channels as the prompt and the features' own average ask for; starts as the identity.

    Args:
        channels: number of channels ``C``.
        prompt_channels: length ``P`` of the prompt.
    """

    def __init__(self, channels: int, prompt_channels: int) -> None:
        super().__init__()
        self.gate = nn.Linear(channels + prompt_channels, 2 * channels)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Route ``(B, H, W, C)`` by prompts ``(B, P)``."""
        scale, shift = self.gate(torch.cat([x.mean(dim=(1, 2)), prompt], dim=-1)).chunk(2, dim=-1)
        return x * (2 * torch.sigmoid(scale))[:, None, None, :] + shift[:, None, None, :]


def top_gates(logits: Tensor, chosen: int) -> Tensor:
    """Softmax over the ``chosen`` largest of the last axis, the first of equal ones; 0 for the others."""
    values, experts = logits.sort(dim=-1, descending=True, stable=True)
    weights = values[..., :chosen].softmax(dim=-1)  # float32 under autocast
    return torch.zeros_like(logits, dtype=weights.dtype).scatter(-1, experts[..., :chosen], weights)


def balance_loss(gates: Tensor, logits: Tensor, noisy: Tensor, spread: Tensor, chosen: int) -> Tensor:
    """How unevenly experts are used: squared variation coefficients of importance and of load.

    Importance is the sum of an expert's gates; load is the expected number of pixels that choose it under the noise.
    Shazeer et al., arXiv 1701.06538, eq. 6-11.

    Args:
        gates: from :func:`top_gates`, shape ``(..., E)``.
        logits: choice without noise, same shape.
        noisy: choice with noise, same shape.
        spread: standard deviation of that noise, same shape.
        chosen: experts a pixel takes, below ``E``.

    Returns:
        A scalar, 0 where all experts are used alike.
    """
    experts = gates.shape[-1]
    top = noisy.float().topk(chosen + 1, dim=-1).values
    inside = noisy >= top[..., chosen - 1 : chosen]
    # what an expert must exceed to be chosen, were its own noise drawn again
    threshold = torch.where(inside, top[..., chosen : chosen + 1], top[..., chosen - 1 : chosen])
    probability = torch.special.ndtr((logits.float() - threshold) / spread.float())

    def variation(total: Tensor) -> Tensor:
        return total.var(unbiased=False) / (total.mean().square() + 1e-10)

    return variation(gates.float().reshape(-1, experts).sum(0)) + variation(probability.reshape(-1, experts).sum(0))
