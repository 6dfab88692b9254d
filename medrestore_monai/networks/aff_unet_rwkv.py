"""AFF-UNet-RWKV (Qin): a U-Net with attentional feature fusion (AFF) and RWKV-lite spatial mixers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medrestore_monai.networks.residual import Pointwise, ResidualNetwork, require_same_channels, start_with_sum_zero

__all__ = ["AFF", "AFFUNetRWKV", "RWKVLiteMixer"]

LEVELS = 4  # three of the encoder, and the bottleneck
REACH = 21  # pixels that a mixer sees in each direction


class AFFUNetRWKV(ResidualNetwork):
    """AFF-UNet-RWKV for images of any size: the input plus what a U-Net of four levels finds to change.

    The encoder has two 3x3 convolutions with batch normalization and ReLU a level and halves the size by maximum
    pooling, before the bottleneck by minimum pooling. In the decoder, transposed convolutions double the size, AFF
    fuses the encoder's features, two convolutions follow, then an RWKV-lite mixer; the bottleneck has one, too. The
    paper gives the parts but no sizes: channels, kernels and the place of normalization are common practice. With
    the defaults and 3 channels it has 2.22 million parameters, with ``channels=(16, 32, 64, 128)`` 0.56 million.

    Training needs more than one value per channel for batch normalization; padding to multiples of 16 sees to it.
    Two things are ours, with which it learns faster: it sees images without their mean, and the filters
    of its first convolution start with sum zero.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; the residual needs as many as ``in_channels``.
        channels: channels of the four levels, multiples of 8.
        aff: fuse the encoder's features by AFF; else concatenate them, as a U-Net does.
        mixer: use the RWKV-lite mixers.

    Raises:
        ValueError: for other numbers of channels.

    References:
        Qin, AFF-UNet-RWKV: A Lightweight Model for High-Quality Deblurring in Medical Imaging
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        channels: Sequence[int] = (32, 64, 128, 256),
        aff: bool = True,
        mixer: bool = True,
    ) -> None:
        super().__init__(in_channels, multiple=2**LEVELS, without_mean=True)
        require_same_channels(in_channels, out_channels)
        if len(channels) != LEVELS or any(width < 8 or width % 8 for width in channels):
            raise ValueError(f"channels must give {LEVELS} multiples of 8, got {tuple(channels)}.")
        before = [in_channels, *channels]
        self.encoder = nn.ModuleList(_two_convolutions(before[i], before[i + 1]) for i in range(LEVELS))
        self.bottleneck = RWKVLiteMixer(channels[-1]) if mixer else nn.Identity()
        self.decoder = nn.ModuleList(
            _DecoderLevel(channels[i + 1], channels[i], aff, mixer) for i in reversed(range(LEVELS - 1))
        )
        start_with_sum_zero(next(self.encoder.parameters()))  # the weight of the first convolution
        self.output = nn.Conv2d(channels[0], out_channels, 3, padding=1)
        nn.init.normal_(self.output.weight, std=1e-3)  # training starts close to the identity
        nn.init.zeros_(cast(Tensor, self.output.bias))

    def change(self, x: Tensor) -> Tensor:
        """Return what to add to padded images ``(B, in_channels, H, W)``."""
        skips = []
        for level, convolutions in enumerate(self.encoder):
            if level == LEVELS - 1:
                x = -F.max_pool2d(-x, 2)  # minimum pooling before the bottleneck, as in the paper
            elif level > 0:
                x = F.max_pool2d(x, 2)
            x = convolutions(x)
            skips.append(x)
        x = self.bottleneck(skips.pop())
        for decode in self.decoder:
            x = decode(x, skips.pop())
        return self.output(x)

    def merged(self) -> AFFUNetRWKV:
        """Return a network for inference with batch normalization inside the convolutions; ``self`` does not change."""
        twin = copy.deepcopy(self).eval().requires_grad_(False)
        for module in twin.modules():
            if isinstance(module, nn.Sequential):
                for i in range(len(module) - 1):
                    first, second = module[i], module[i + 1]
                    if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                        module[i] = fuse_conv_bn_eval(first, second).requires_grad_(False)
                        module[i + 1] = nn.Identity()
        return twin


class AFF(nn.Module):
    """Attentional feature fusion: a weighted mean of two features, weighed per pixel and channel by both.

    ``m = sigmoid(local(x + y) + global(mean(x + y)))``, result ``2 * m * x + 2 * (1 - m) * y``. The local and the
    global branch are two 1x1 convolutions with a quarter of the channels between. The global one has group instead of
    batch normalization, which a batch of one image would leave with a single value.

    Args:
        channels: number of channels ``C``, a multiple of 8.

    References:
        Dai et al., Attentional Feature Fusion, WACV 2021, https://arxiv.org/abs/2009.14082
    """

    def __init__(self, channels: int) -> None:
        super().__init__()

        def branch(norm: type[nn.Module] | str) -> nn.Sequential:
            inner = channels // 4
            norms = [nn.BatchNorm2d(n) if norm == "batch" else nn.GroupNorm(1, n) for n in (inner, channels)]
            first, second = Pointwise(channels, inner, bias=False), Pointwise(inner, channels, bias=False)
            return nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1])

        self.local = branch("batch")
        self.overall = branch("group")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Fuse two features ``(B, C, H, W)``."""
        both = x + y
        weight = torch.sigmoid(self.local(both) + self.overall(both.mean(dim=(2, 3), keepdim=True)))
        return 2 * (y + weight * (x - y))


class RWKVLiteMixer(nn.Module):
    """RWKV-lite spatial mixer: RWKV's gates around convolutions that look far in all directions.

    ``x + scale * W_o(sigmoid(r) * mix(k * v))``, where ``r``, ``k``, ``v`` are 1x1 convolutions of the normalized and
    depth-wise shifted ``x``, and ``mix`` is a depth-wise convolution along columns, one along rows and a 1x1
    convolution, which see 21x21 pixels together. ``scale`` is learned per channel and starts at 0.1.

    Args:
        channels: number of channels ``C``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _ChannelNorm(channels)
        self.shift = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.receptance_key_value = Pointwise(channels, 3 * channels, bias=False)
        self.mix = nn.Sequential(
            nn.Conv2d(channels, channels, (REACH, 1), padding=(REACH // 2, 0), groups=channels, bias=False),
            nn.Conv2d(channels, channels, (1, REACH), padding=(0, REACH // 2), groups=channels, bias=False),
            Pointwise(channels, channels),
        )
        self.output = Pointwise(channels, channels, bias=False)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``(B, C, H, W)``."""
        receptance, key, value = self.receptance_key_value(self.shift(self.norm(x))).chunk(3, dim=1)
        return x + self.scale * self.output(torch.sigmoid(receptance) * self.mix(key * value))


class _ChannelNorm(nn.Module):
    """Normalize the channels of each pixel: layer normalization, without the copies to put channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + 1e-5) * self.weight + self.bias


class _DecoderLevel(nn.Module):
    """Double the size, fuse with the encoder's features, convolve twice, mix."""

    def __init__(self, in_channels: int, channels: int, aff: bool, mixer: bool) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, channels, 2, stride=2)
        self.fuse = AFF(channels) if aff else None
        self.convolutions = _two_convolutions(channels if aff else 2 * channels, channels)
        self.mixer = RWKVLiteMixer(channels) if mixer else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)
        x = torch.cat([x, skip], dim=1) if self.fuse is None else self.fuse(x, skip)
        return self.mixer(self.convolutions(x))


def _two_convolutions(in_channels: int, channels: int) -> nn.Sequential:
    """Two times 3x3 convolution, batch normalization and ReLU."""
    layers: list[nn.Module] = []
    for before in (in_channels, channels):
        layers += [nn.Conv2d(before, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)
