"""Restore-RWKV-routing in the form that exporters take: feature planes ``(B, C, H, W)`` and few, plain operators."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrestore_monai.networks.restore_rwkv.planes import RestoreRWKVPlanes
from medrestore_monai.networks.routing import ChannelRouting, SpatialRouting


class RestoreRWKVRoutingPlanes(RestoreRWKVPlanes):
    """The same function as a ``RestoreRWKVRouting`` in evaluation: shares its weights, and has its state dict.

    All experts are computed for all pixels, as in the network; those that a pixel does not take have a gate of 0.

    Args:
        network: the :class:`RestoreRWKVRouting` to be exported; merged, it gives the smaller program.

    Raises:
        ValueError: as :class:`RestoreRWKVPlanes`.
    """

    prompt: nn.Module
    channel_routing: nn.ModuleList
    spatial_routing: nn.ModuleList

    def forward(self, x: Tensor) -> Tensor:
        """Restore a batch of images scaled to [0, 1], shape ``(B, C, H, W)``, any ``H, W >= 1``."""
        prompt = self.prompt(x[:, self.context : self.context + 1] if self.context else x)

        def enter(features: Tensor, level: int, decoding: bool) -> Tensor:
            if decoding or level == len(self.encoder) - 1:
                return _route_channels(cast(ChannelRouting, self.channel_routing[level]), features, prompt)
            return _route_pixels(cast(SpatialRouting, self.spatial_routing[level]), features, prompt)

        return self._restore(x, enter)


def _route_pixels(routing: SpatialRouting, x: Tensor, prompt: Tensor) -> Tensor:
    experts = len(routing.expand)
    asked = routing.from_prompt(prompt)[:, :experts, None, None]
    logits = F.conv2d(x, routing.from_pixel.weight[:experts, :, None, None]) + asked
    # how many experts are wanted more, or as much and come first; runtimes sort channels slowly
    first = torch.ones(experts, experts, dtype=torch.bool, device=x.device).tril(-1)[:, :, None, None]
    other, own = logits[:, None], logits[:, :, None]
    better = ((other > own) | ((other == own) & first)).to(x.dtype).sum(dim=2)
    gates = logits.masked_fill(better >= routing.chosen, float("-inf")).softmax(dim=1)
    added = torch.zeros_like(x)
    for number, (expand, reduce) in enumerate(zip(routing.expand, routing.reduce, strict=True)):
        added = added + gates[:, number : number + 1] * _linear(reduce, F.gelu(_linear(expand, x)))
    return x + added


def _route_channels(routing: ChannelRouting, x: Tensor, prompt: Tensor) -> Tensor:
    scale, shift = routing.gate(torch.cat([x.mean(dim=(2, 3)), prompt], dim=-1)).chunk(2, dim=-1)
    return x * (2 * torch.sigmoid(scale))[:, :, None, None] + shift[:, :, None, None]


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a linear layer to the channels."""
    linear = cast(nn.Linear, layer)
    return F.conv2d(x, linear.weight[:, :, None, None], linear.bias)
