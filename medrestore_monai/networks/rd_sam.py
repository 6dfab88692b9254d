"""RD-SAM of MedDeblur (Sharif et al. 2023): residual dense blocks, then spatial-asymmetric attention."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrestore_monai.networks.residual import Pointwise, draw_weights, runs_channels_last

__all__ = [
    "ATTENTIONS",
    "RDSAM",
    "RELU",
    "RESIDUAL",
    "ResidualDenseBlock",
    "SpatialAsymmetricAttention",
    "SpatialAsymmetricGates",
    "mean_of_convolution",
]

ATTENTIONS = ("ours", "published")
GROWTH = 8  # channels that a dense layer adds
RELU = math.sqrt(2)  # what a ReLU takes from the scale of features
RESIDUAL = 0.3  # scale of what a residual block adds at the start


class RDSAM(nn.Module):
    """Residual dense blocks followed by spatial-asymmetric attention.

    The paper's number of parameters follows with three blocks before one attention.

    Args:
        channels: number of channels ``C``, a multiple of 16.
        attention: ``published``, as the authors' code has it: :class:`SpatialAsymmetricAttention`, and dense blocks
            without biases; or ``ours``: :class:`SpatialAsymmetricGates`, and dense blocks with them.
    """

    def __init__(self, channels: int, attention: str = "ours") -> None:
        super().__init__()
        bias = attention == "ours"
        self.blocks = nn.Sequential(*(ResidualDenseBlock(channels, bias) for _ in range(3)))
        self.attention = SpatialAsymmetricGates(channels) if bias else SpatialAsymmetricAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Refine ``(B, C, H, W)``."""
        return self.attention(self.blocks(x))


class SpatialAsymmetricAttention(nn.Module):
    """Features of a 9x9 convolution, weighed by place and by channel, as the authors' code has it.

    ``LeakyReLU(conv9x9(x) * F_G * (F_V + F_H))`` with slope 0.2. ``F_V`` and ``F_H`` are the sigmoid of a 9x9
    convolution of mean and maximum over the channels of a 3x1 and a 1x3 convolution of ``x`` (eq. 4-6); one 9x9
    convolution serves both. ``F_G`` is squeeze and excitation of ``conv9x9(x)``, with a sixteenth of the channels
    between (eq. 7).

    Args:
        channels: number of channels ``C``, a multiple of 16.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.vertical = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.horizontal = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.places = nn.Conv2d(2, 1, 9, padding=4)
        self.overall = nn.Conv2d(channels, channels, 9, padding=4)
        self.excite = nn.Sequential(
            nn.Conv2d(channels, channels // 16, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels // 16, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Refine ``(B, C, H, W)``."""
        vertical = torch.sigmoid(self.places(_mean_and_maximum(self.vertical(x))))
        horizontal = torch.sigmoid(self.places(_mean_and_maximum(self.horizontal(x))))
        features = self.overall(x)
        weighed = features * self.excite(features.mean(dim=(2, 3), keepdim=True)) * (vertical + horizontal)
        return F.leaky_relu(weighed, 0.2)


class SpatialAsymmetricGates(nn.Module):
    """Weigh features by place, from tall and wide convolutions, and by channel, from a 9x9 convolution's average: ours.

    ``x * (F_V + F_H) * F_G``: the paper's text does not say how the three meet, and here all of them multiply ``x``,
    while in :class:`SpatialAsymmetricAttention` the features of the 9x9 convolution are the output. ``F_V`` and ``F_H``
    have a 9x9 convolution each.

    Of the 9x9 convolution of ``x`` only the average is needed, so it is applied to the averages of ``x`` seen through
    each of the 81 places of its kernel: the same result at a thousandth of the cost.

    Args:
        channels: number of channels ``C``, a multiple of 16.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.vertical = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.horizontal = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.vertical_places = nn.Conv2d(2, 1, 9, padding=4)
        self.horizontal_places = nn.Conv2d(2, 1, 9, padding=4)
        self.overall = nn.Conv2d(channels, channels, 9, padding=4)
        self.excite = nn.Sequential(
            nn.Conv2d(channels, channels // 16, 1, bias=False),
            nn.LeakyReLU(0.1),  # of the one or two channels of small variants, none may die
            nn.Conv2d(channels // 16, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Refine ``(B, C, H, W)``."""
        vertical = torch.sigmoid(self.vertical_places(_mean_and_maximum(self.vertical(x))))
        horizontal = torch.sigmoid(self.horizontal_places(_mean_and_maximum(self.horizontal(x))))
        return x * (vertical + horizontal) * self.excite(mean_of_convolution(self.overall, x))


def mean_of_convolution(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Return ``convolution(x).mean(dim=(2, 3), keepdim=True)`` without the convolution.

    The mean of what one kernel element sees is a mean over ``x`` without the rows and columns that move out.

    Args:
        convolution: of odd kernel ``K``, padded by zeros to keep the size, without stride or dilation.
        x: shape ``(B, C, H, W)``.

    Returns:
        Shape ``(B, C_out, 1, 1)``.
    """
    rows, columns = (_seen(size, kernel, x) for size, kernel in zip(x.shape[2:], convolution.kernel_size, strict=True))
    return F.conv2d(rows.mT @ (x @ columns), convolution.weight, convolution.bias)


def _seen(size: int, kernel: int, like: Tensor) -> Tensor:
    """Return ``(size, kernel)``: one over ``size`` where a pixel is seen by an element of the kernel, else 0."""
    pixel = torch.arange(size, device=like.device)[:, None]
    center = pixel - (torch.arange(kernel, device=like.device) - kernel // 2)
    return ((center >= 0) & (center < size)).to(like.dtype) / size


class ResidualDenseBlock(nn.Module):
    """Three 3x3 layers, each of which sees all before it, a 1x1 fusion, and a residual.

    Args:
        channels: number of channels ``C``.
        bias: let the four layers have biases; the authors' code has none.
    """

    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(channels + i * GROWTH, GROWTH, 3, padding=1, bias=bias) for i in range(3))
        self.fuse = Pointwise(channels + 3 * GROWTH, channels, bias=bias)

    def draw_weights(self) -> None:
        """Let features keep their scale, and let the block add little at the start."""
        for layer in self.layers:
            draw_weights(cast(nn.Conv2d, layer), RELU)
        draw_weights(self.fuse, RESIDUAL)

    def forward(self, x: Tensor) -> Tensor:
        """Refine ``(B, C, H, W)``."""
        if runs_channels_last(x):
            return self._refine_by_pieces(x)
        features = x
        for layer in self.layers:
            features = torch.cat([features, F.relu(layer(features))], dim=1)
        return x + self.fuse(features)

    def _refine_by_pieces(self, x: Tensor) -> Tensor:
        """The same, without putting features side by side: what each piece gives all layers after it, at once."""
        layers, piece, start = [cast(nn.Conv2d, layer) for layer in self.layers], x, 0
        biases = [] if self.fuse.bias is None else [cast(Tensor, layer.bias) for layer in layers]
        waiting: Tensor | None = None  # what the layers still to come have got so far
        result = x.permute(0, 2, 3, 1) if self.fuse.bias is None else x.permute(0, 2, 3, 1) + self.fuse.bias
        for i in range(len(layers) + 1):
            seen = slice(start, start + piece.shape[1])
            part = piece.permute(0, 2, 3, 1) @ self.fuse.weight[:, seen].flatten(1).t()
            result = result + part if i == 0 else result.add_(part)
            if i == len(layers):
                break
            weight = torch.cat([layer.weight[:, seen] for layer in layers[i:]])
            given = F.conv2d(piece, weight, torch.cat(biases) if i == 0 and biases else None, padding=1)
            waiting = given if waiting is None else given.add_(waiting[:, GROWTH:])
            piece, start = F.relu(waiting[:, :GROWTH]), seen.stop
        return result.permute(0, 3, 1, 2)


def _mean_and_maximum(x: Tensor) -> Tensor:
    """Mean and maximum over the channels, shape ``(B, 2, H, W)``."""
    return torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
