"""MLFF-DMRFAB wavelet U-Net (Lian and Wang 2023): layers fused across scales, dilated attention at the bottom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrestore_monai.networks.residual import (
    Pointwise,
    ResidualNetwork,
    draw_weights,
    leaky_relu,
    require_same_channels,
    start_with_sum_zero,
)
from medrestore_monai.ops.wavelet import haar_dwt, haar_iwt

__all__ = ["DMRFAB", "DSC", "MLFF", "MLFFUNet", "MRFAB", "RDSC"]

LEVELS = 4
SLOPE = 0.01  # of the leaky ReLU below 0: PyTorch's default, as the paper gives none


class MLFFUNet(ResidualNetwork):
    """Wavelet U-Net with MLFF and DMRFAB for images of any size: the input plus what it finds to change.

    The Haar transform halves the size and its inverse doubles it. Each of the three decoder levels gets what an
    :class:`MLFF` selects from the encoder's three; the fourth level has a :class:`DMRFAB`. With the defaults and 3
    channels it has 6.05 million parameters, near the 6.1 million of the paper's 24.4 MB; with
    ``channels=(16, 32, 64, 128), growth=32`` 0.70 million. The last four arguments are the rows of the paper's table 6.

    Two things are ours, without which it hardly learned: it sees images without their mean, and the depth-wise filters
    start with sum zero.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; the residual needs as many as ``in_channels``.
        channels: channels of the four levels, multiples of 16.
        growth: channels that each of the four units of the DMRFAB adds, and of its branches.
        wavelets: change the size by the Haar transform; else by average pooling and nearest-neighbor interpolation,
            between convolutions with a quarter of the channels.
        dmrfab: use the DMRFAB.
        attention: let the units of the DMRFAB attend to channels and places.
        mlff: fuse the encoder's levels by MLFF; else each decoder level gets its own encoder level, as in a U-Net.

    Raises:
        ValueError: for other numbers of channels.

    References:
        Lian and Wang, An image deblurring method using improved U-Net model based on multilayer fusion and attention
        mechanism, Scientific Reports 13, 2023. Sizes in its text are areas or slips: sides halve level by level.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        channels: Sequence[int] = (32, 64, 128, 256),
        growth: int = 128,
        wavelets: bool = True,
        dmrfab: bool = True,
        attention: bool = True,
        mlff: bool = True,
    ) -> None:
        super().__init__(in_channels, multiple=2 ** (LEVELS - 1), without_mean=True)
        require_same_channels(in_channels, out_channels)
        if len(channels) != LEVELS or any(width < 16 or width % 16 for width in channels):
            raise ValueError(f"channels must give {LEVELS} multiples of 16, got {tuple(channels)}.")
        self.wavelets = wavelets
        bands = 4 if wavelets else 1
        before = [in_channels, *(bands * width for width in channels)]
        self.encoder = nn.ModuleList(
            nn.Sequential(DSC(before[i], channels[i]), _group(channels[i])) for i in range(LEVELS)
        )
        self.bottleneck = nn.Sequential(
            DMRFAB(channels[-1], growth, attention) if dmrfab else nn.Identity(),
            DSC(channels[-1], bands * channels[-2]),
        )
        self.fusion = nn.ModuleList(MLFF(channels[:-1], level, wavelets) for level in range(3)) if mlff else None
        after = (out_channels, *before[1:3])
        self.decoder = nn.ModuleList(
            nn.Sequential(DSC(width, width), _group(width), DSC(width, after[level]))
            for level, width in enumerate(channels[:-1])
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                draw_weights(module)
                if module.groups > 1:
                    start_with_sum_zero(module.weight)
        last = cast(DSC, cast(nn.Sequential, self.decoder[0])[2])
        nn.init.normal_(last.pointwise.weight, std=1e-3)  # training starts close to the identity

    def change(self, x: Tensor) -> Tensor:
        """Return what to add to padded images ``(B, in_channels, H, W)``."""
        skips = []
        for level, layers in enumerate(self.encoder):
            x = layers(x if level == 0 else _halve(x, self.wavelets))
            skips.append(x)
        x = self.bottleneck(skips.pop())
        if self.fusion is not None:
            skips = [fuse(skips) for fuse in self.fusion]
        for level in reversed(range(LEVELS - 1)):
            x = self.decoder[level](_double(x, self.wavelets) + skips[level])
        return x


class DSC(nn.Module):
    """Depth-wise separable convolution: 3x3 for each channel, then 1x1 across channels.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = Pointwise(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        return cast(Tensor, self.pointwise(self.depthwise(x)))


class RDSC(nn.Module):
    """Residual pair of depth-wise separable convolutions: ``lrelu(x + DSC(lrelu(DSC(x))))``.

    Args:
        channels: number of channels ``C``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = DSC(channels, channels)
        self.second = DSC(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Refine ``(B, C, H, W)``."""
        change = self.second(leaky_relu(self.first(x), SLOPE))
        return leaky_relu(x + change if torch.is_grad_enabled() else change.add_(x), SLOPE)


class MLFF(nn.Module):
    """Multilayer feature fusion: per channel, choose from the three encoder levels what one decoder level gets.

    Convolutions and wavelets bring the levels to the size and channels of one. From the average of their sum, a
    squeeze to an eighth and three expansions give a softmax across the levels for each channel (eq. 7-10).

    Args:
        channels: channels of the three levels.
        level: the one to fuse for, 0 to 2.
        wavelets: see :class:`MLFFUNet`.
    """

    def __init__(self, channels: Sequence[int], level: int, wavelets: bool = True) -> None:
        super().__init__()
        self.level = level
        self.wavelets = wavelets
        width, bands = channels[level], 4 if wavelets else 1
        # a transform down multiplies the channels by the number of bands, one up divides them
        adapted = [width * bands**other // bands**level for other in range(3)]
        self.adapt = nn.ModuleList(
            nn.Identity() if other == level else Pointwise(channels[other], adapted[other]) for other in range(3)
        )
        self.squeeze = nn.Conv2d(width, width // 8, 1)
        self.expand = nn.Conv2d(width // 8, 3 * width, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Fuse the encoder's three levels, each of half the size of the one before, to one ``(B, C, H, W)``."""
        branches = []
        for other, adapt in enumerate(self.adapt):
            x = adapt(features[other])
            for _ in range(self.level - other):
                x = _halve(x, self.wavelets)
            for _ in range(other - self.level):
                x = _double(x, self.wavelets)
            branches.append(x)
        pooled = (branches[0] + branches[1] + branches[2]).mean(dim=(2, 3), keepdim=True)
        weights = self.expand(F.leaky_relu(self.squeeze(pooled), SLOPE)).unflatten(1, (3, -1)).softmax(dim=1)
        return weights[:, 0] * branches[0] + weights[:, 1] * branches[1] + weights[:, 2] * branches[2]


class DMRFAB(nn.Module):
    """Dense multi-receptive field attention block: four units, each sees what all before it gave, and a 1x1 bottleneck.

    Args:
        channels: number of channels ``C``.
        growth: channels that a unit gives.
        attention: see :class:`MRFAB`.
    """

    def __init__(self, channels: int, growth: int, attention: bool = True) -> None:
        super().__init__()
        self.units = nn.ModuleList(MRFAB(channels + i * growth, growth, attention) for i in range(4))
        self.bottleneck = Pointwise(channels + 4 * growth, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Refine ``(B, C, H, W)``."""
        for unit in self.units:
            x = torch.cat([x, unit(x)], dim=1)
        return self.bottleneck(x)


class MRFAB(nn.Module):
    """Multi-receptive field attention block: dilated convolutions side by side, weighed by channel and by place.

    The branches' input is squeezed to ``growth`` channels; four 3x3 convolutions of it with dilation 1 to 4 and the
    block's own input make ``R``. Channel attention (average, two 1x1 convolutions, sigmoid) and spatial attention
    (maximum and mean over channels, 7x7 convolution, sigmoid) each multiply ``R``; a 1x1 convolution joins the two
    products (eq. 12-14). The paper gives no width between the two convolutions of the channel attention: a seventh of
    ``R`` gives its model's size.

    Args:
        in_channels: channels of the input.
        growth: channels of each branch and of the output.
        attention: attend; else the 1x1 convolution gets ``R`` itself.
    """

    def __init__(self, in_channels: int, growth: int, attention: bool = True) -> None:
        super().__init__()
        joined = in_channels + 4 * growth
        self.squeeze = Pointwise(in_channels, growth)
        self.branches = nn.ModuleList(nn.Conv2d(growth, growth, 3, padding=d, dilation=d) for d in (1, 2, 3, 4))
        self.attention = attention
        if attention:
            inner = joined // 7
            self.by_channel = nn.Sequential(
                nn.Conv2d(joined, inner, 1), nn.LeakyReLU(SLOPE), nn.Conv2d(inner, joined, 1), nn.Sigmoid()
            )
            self.by_place = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3), nn.Sigmoid())
        self.join = Pointwise(2 * joined if attention else joined, growth)

    def forward(self, x: Tensor) -> Tensor:
        """Give ``(B, growth, H, W)`` for ``(B, in_channels, H, W)``."""
        squeezed = self.squeeze(x)
        joined = torch.cat([*(branch(squeezed) for branch in self.branches), x], dim=1)
        if self.attention:
            channels = self.by_channel(joined.mean(dim=(2, 3), keepdim=True))
            places = self.by_place(
                torch.cat([joined.amax(dim=1, keepdim=True), joined.mean(dim=1, keepdim=True)], dim=1)
            )
            joined = torch.cat([channels * joined, places * joined], dim=1)
        return self.join(joined)


def _group(channels: int) -> nn.Sequential:
    """Three RDSC one after the other."""
    return nn.Sequential(*(RDSC(channels) for _ in range(3)))


def _halve(x: Tensor, wavelets: bool) -> Tensor:
    """Halve the sides: Haar transform with four times the channels, or average pooling."""
    return haar_dwt(x) if wavelets else F.avg_pool2d(x, 2)


def _double(x: Tensor, wavelets: bool) -> Tensor:
    """Double the sides: inverse Haar transform with a quarter of the channels, or nearest-neighbor interpolation."""
    return haar_iwt(x) if wavelets else F.interpolate(x, scale_factor=2, mode="nearest")
