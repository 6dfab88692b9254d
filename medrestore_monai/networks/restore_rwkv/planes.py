"""Restore-RWKV in the form that exporters take: feature planes ``(B, C, H, W)`` and few, plain operators."""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrestore_monai.networks.residual import pad_to_multiple
from medrestore_monai.networks.rwkv_blocks import (
    CausalSpatialMix,
    ChannelMix,
    RRWKVBlock,
    SpatialMix,
    SummedSpatialMix,
)
from medrestore_monai.networks.token_shifts import KernelShift, UniShift
from medrestore_monai.ops.re_wkv_planes import re_wkv_planes

LIMIT = 60.0  # of |decay| + |bonus|: the exported sums are float32


class RestoreRWKVPlanes(nn.Module):
    """The same function as a ``RestoreRWKV``, for inference: shares its weights, and has its state dict.

    Convolutions replace linear maps, one 4x4 convolution of stride 2 replaces convolution and pixel-unshuffle, and the
    image is padded by index, so that a captured program keeps batch, height and width free.

    Args:
        network: the :class:`RestoreRWKV` to be exported; merged, it gives the smaller program.

    Raises:
        ValueError: its decays are too large for the exported form, here or when a state is loaded; or it has Uni-WKV
            or Uni-Shift, or scans that begin along columns or are summed.
    """

    embed: nn.Module
    encoder: nn.ModuleList
    down: nn.ModuleList
    up: nn.ModuleList
    fuse: nn.ModuleList
    decoder: nn.ModuleList
    refinement: nn.ModuleList
    output: nn.Module

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if any(isinstance(part, CausalSpatialMix | UniShift) for part in network.modules()):
            raise ValueError("the exported form knows neither Uni-WKV nor Uni-Shift.")
        mixes = [part for part in network.modules() if isinstance(part, SpatialMix)]
        if any(mix.columns or isinstance(mix, SummedSpatialMix) for mix in mixes):
            raise ValueError("the exported form knows neither scans that begin along columns nor summed ones.")
        for name, part in network.named_children():
            self.add_module(name, part)
        self.context = cast(int, network.context)
        self.multiple = 2 ** (len(self.encoder) - 1)
        self.register_load_state_dict_post_hook(lambda module, _: _check_decays(module))
        _check_decays(self)

    def forward(self, x: Tensor) -> Tensor:
        """Restore a batch of images scaled to [0, 1], shape ``(B, C, H, W)``, any ``H, W >= 1``."""
        return self._restore(x, lambda features, level, decoding: features)

    def _restore(self, x: Tensor, enter: Callable[[Tensor, int, bool], Tensor]) -> Tensor:
        """Restore a batch; ``enter`` may change the features at the beginning of each level, as in the network."""
        height, width = x.shape[2:]
        padded = pad_to_multiple(x, self.multiple)
        features = _run(self.encoder[0], enter(self.embed(padded), 0, False))
        skips = []
        for level in range(1, len(self.encoder)):
            skips.append(features)
            features = enter(_downsample(self.down[level - 1], features), level, False)
            features = _run(self.encoder[level], features)
        for level in reversed(range(len(skips))):
            features = torch.cat([F.pixel_shuffle(self.up[level](features), 2), skips.pop()], dim=1)
            if level > 0:
                fuse = cast(nn.Linear, self.fuse[level - 1])
                features = _linear(fuse.weight, features, fuse.bias)
            features = _run(self.decoder[level], enter(features, level, True))
        change = self.output(_run(self.refinement, features))
        # cropped by index as well: a slice would tie a captured program to sizes that need padding
        rows, columns = (torch.arange(size, device=x.device) for size in (height, width))
        middle = x[:, self.context : self.context + 1] if self.context else x
        return middle + change.index_select(2, rows).index_select(3, columns)


def _check_decays(module: nn.Module) -> None:
    for mix in module.modules():
        if isinstance(mix, SpatialMix):
            largest = float(mix.decay.detach().abs().max() + mix.bonus.detach().abs().max())
            if not largest <= LIMIT:
                raise ValueError(f"the exported form needs max|decay| + max|bonus| <= {LIMIT:g}, got {largest:g}.")


def _downsample(convolution: nn.Module, x: Tensor) -> Tensor:
    """Convolution and pixel-unshuffle as one convolution of stride 2: its kernel at four offsets."""
    weight = cast(Tensor, convolution.weight)
    offsets = [F.pad(weight, (right, 1 - right, down, 1 - down)) for down in (0, 1) for right in (0, 1)]
    return F.conv2d(x, torch.stack(offsets, dim=1).flatten(0, 1), stride=2, padding=1)


def _linear(weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear map ``(C_out, C_in)`` to the channels."""
    return F.conv2d(x, weight.view(*weight.shape, 1, 1), bias)


def _normalize(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    channels = x.shape[1]
    mean = x.new_full((1, channels, 1, 1), 1 / channels)  # a convolution: runtimes average channels slowly
    x = x - F.conv2d(x, mean)
    x = x * torch.rsqrt(F.conv2d(x * x, mean) + norm.eps)
    return F.conv2d(x, norm.weight.view(channels, 1, 1, 1), norm.bias, groups=channels)


def _shift(shift: nn.Module, x: Tensor) -> Tensor:
    kernel = shift.kernel() if isinstance(shift, KernelShift) else cast(Tensor, shift.kernel)
    return F.conv2d(x, kernel, padding=2, groups=x.shape[1])


def _run(blocks: nn.Module, x: Tensor) -> Tensor:
    for child in blocks.children():
        block = cast(RRWKVBlock, child)
        x = x + _spatial_mix(block.spatial, block.gamma1, _normalize(block.norm1, x))
        x = x + _channel_mix(block.channel, block.gamma2, _normalize(block.norm2, x))
    return x


def _spatial_mix(mix: SpatialMix, gamma: Tensor, x: Tensor) -> Tensor:
    x = _shift(mix.shift, x)
    value = re_wkv_planes(mix.decay, mix.bonus, _linear(mix.key.weight, x), _linear(mix.value.weight, x))
    gate = torch.sigmoid(_linear(mix.receptance.weight, x))
    return _linear(gamma[:, None] * mix.output.weight, gate * value)


def _channel_mix(mix: ChannelMix, gamma: Tensor, x: Tensor) -> Tensor:
    x = _shift(mix.shift, x)
    hidden = F.relu(_linear(mix.key.weight, x))
    gate = torch.sigmoid(_linear(mix.receptance.weight, x))
    return gate * _linear(gamma[:, None] * mix.value.weight, hidden * hidden)
