"""Blocks of Restore-RWKV (Yang et al., arXiv 2407.11087). Features are channels-last: ``(B, H, W, C)``.

Linear maps and normalization then act on the last axis, and both scans of Bi-WKV read the memory as it lies.
What stands here reads like the paper; inference runs the same blocks strip by strip, see
:mod:`medrestore_monai.networks.rwkv_strips`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from medrestore_monai.networks.token_shifts import TOKEN_SHIFTS
from medrestore_monai.ops.biwkv import re_wkv
from medrestore_monai.ops.uniwkv import uniwkv

# two scans, rows then columns; one over rows; one over rows that looks back only
ATTENTIONS = ("re-wkv", "bi-wkv", "uni-wkv")
# one scan over columns; one over rows or columns, in turn from block to block; both on their own, and summed
SCANS = ("bi-wkv-columns", "alternating", "sum")


class SpatialMix(nn.Module):
    """Mix pixels over the whole image by two Bi-WKV scans, along rows and then along columns; gated.

    Each scan has its own decay and bonus; the keys are shared and the result of the first is the value of the second.
    Restore-RWKV, section 3.3.

    Args:
        channels: number of channels ``C``.
        recurrences: number of scans; even ones follow rows, odd ones columns.
        token_shift: a key of :data:`~medrestore_monai.networks.token_shifts.TOKEN_SHIFTS`.
        columns: let even scans follow columns and odd ones rows.
    """

    def __init__(self, channels: int, recurrences: int = 2, token_shift: str = "omni", columns: bool = False) -> None:
        super().__init__()
        self.columns = columns
        self.shift: nn.Module = TOKEN_SHIFTS[token_shift](channels)
        self.receptance = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.output = nn.Linear(channels, channels, bias=False)
        self.decay = nn.Parameter(torch.randn(recurrences, channels))
        self.bonus = nn.Parameter(torch.randn(recurrences, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``(B, H, W, C)``."""
        x = self.shift(x)
        return self.output(self.attend(self.receptance(x), self.key(x), self.value(x)))

    def attend(self, receptance: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Mix the values of all pixels, each ``(B, H, W, C)``, and gate the result."""
        tokens = key.shape[1] * key.shape[2]
        return re_wkv(self.decay.float(), self.bonus.float(), key, value, receptance, self.columns, divisor=tokens)


class SummedSpatialMix(SpatialMix):
    """As :class:`SpatialMix`, by a scan along rows and one along columns that do not see each other, and their sum.

    The second design of Restore-RWKV's table 7.

    Args:
        channels: number of channels ``C``.
        token_shift: as for :class:`SpatialMix`.
    """

    def __init__(self, channels: int, token_shift: str = "omni") -> None:
        super().__init__(channels, 2, token_shift)

    def attend(self, receptance: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Mix the values of all pixels in both ways, each ``(B, H, W, C)``, add, and gate the result."""
        tokens = key.shape[1] * key.shape[2]
        decay, bonus = self.decay.float(), self.bonus.float()
        rows = re_wkv(decay[:1], bonus[:1], key, value, divisor=tokens)
        columns = re_wkv(decay[1:], bonus[1:], key, value, columns=True, divisor=tokens)
        return torch.sigmoid(receptance) * (rows + columns)


class CausalSpatialMix(SpatialMix):
    """As :class:`SpatialMix`, by one causal scan: a pixel sees itself and those before it, row after row (Uni-WKV).

    Decay and bonus are divided by the number of tokens as in Bi-WKV, so that the direction is all that differs.

    Args:
        channels: number of channels ``C``.
        token_shift: as for :class:`SpatialMix`.
    """

    def __init__(self, channels: int, token_shift: str = "omni") -> None:
        super().__init__(channels, 1, token_shift)

    def attend(self, receptance: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Mix the values of the pixels up to each, each ``(B, H, W, C)``, and gate the result."""
        tokens = key.shape[1] * key.shape[2]
        decay, bonus = self.decay[0].float() / tokens, self.bonus[0].float() / tokens
        with torch.autocast(key.device.type, enabled=False):
            mixed = uniwkv(decay, bonus, key.flatten(1, 2), value.flatten(1, 2)).view_as(value)
            return torch.sigmoid(receptance) * mixed


class ChannelMix(nn.Module):
    """Mix the channels of each pixel: a gated two-layer network with squared ReLU. Restore-RWKV, section 3.2.

    Args:
        channels: number of channels ``C``.
        expansion: hidden channels for each channel.
        token_shift: as for :class:`SpatialMix`.
    """

    def __init__(self, channels: int, expansion: int = 4, token_shift: str = "omni") -> None:
        super().__init__()
        self.shift: nn.Module = TOKEN_SHIFTS[token_shift](channels)
        self.key = nn.Linear(channels, channels * expansion, bias=False)
        self.receptance = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels * expansion, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``(B, H, W, C)``."""
        x = self.shift(x)
        return torch.sigmoid(self.receptance(x)) * self.value(_SquaredReLU.apply(self.key(x)))


class _SquaredReLU(torch.autograd.Function):
    """``relu(x) ** 2``; autograd's own form keeps two tensors and reads them four times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = torch.relu(x)
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return 2 * grad * positive


class RRWKVBlock(nn.Module):
    """``x + gamma1 * SpatialMix(LN(x))``, then ``x + gamma2 * ChannelMix(LN(x))``. Restore-RWKV, figure 2.

    Args:
        channels: number of channels ``C``.
        recurrences: scans of Re-WKV; the other attentions have one.
        attention: one of :data:`ATTENTIONS` or :data:`SCANS`.
        token_shift: as for :class:`SpatialMix`.
        number: place of the block among all of a network; ``alternating`` scans along columns in those of odd number.
    """

    def __init__(
        self,
        channels: int,
        recurrences: int = 2,
        attention: str = "re-wkv",
        token_shift: str = "omni",
        number: int = 0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        if attention == "uni-wkv":
            self.spatial: SpatialMix = CausalSpatialMix(channels, token_shift)
        elif attention == "sum":
            self.spatial = SummedSpatialMix(channels, token_shift)
        else:
            columns = attention == "bi-wkv-columns" or (attention == "alternating" and number % 2 == 1)
            scans = recurrences if attention == "re-wkv" else 1
            self.spatial = SpatialMix(channels, scans, token_shift, columns)
        self.gamma1 = nn.Parameter(torch.ones(channels))
        self.norm2 = nn.LayerNorm(channels)
        self.channel = ChannelMix(channels, token_shift=token_shift)
        self.gamma2 = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(B, H, W, C)``."""
        x = torch.addcmul(x, self.gamma1, self.spatial(self.norm1(x)))
        return torch.addcmul(x, self.gamma2, self.channel(self.norm2(x)))
