"""Blocks of Restore-RWKV (Yang et al., arXiv 2407.11087). Features are channels-last: ``(B, H, W, C)``.

Linear maps and normalization then act on the last axis, and both scans of Bi-WKV read the memory as it lies.
What stands here reads like the paper; inference runs the same blocks strip by strip, see
:mod:`medrestore_monai.networks.rwkv_strips`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from medrestore_monai.ops.biwkv import re_wkv


class DepthwiseShift(nn.Module):
    """One depth-wise 5x5 convolution, what :class:`OmniShift` becomes when merged.

    Args:
        kernel: shape ``(C, 1, 5, 5)``.
    """

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.kernel = nn.Parameter(kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, H, W, C)``, zeros outside the image."""
        return _depthwise(x, self.kernel)


class OmniShift(nn.Module):
    """Mix a pixel with its neighbors: ``a0 * x + a1 * conv1x1(x) + a2 * conv3x3(x) + a3 * conv5x5(x)``, depth-wise.

    The sum of the branches is itself a 5x5 kernel, so training, too, runs one convolution; gradients reach every
    branch through the sum. Restore-RWKV, section 3.4.

    Args:
        channels: number of channels ``C``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(4))
        self.kernel1 = nn.Parameter(torch.empty(channels, 1, 1, 1))
        self.kernel3 = nn.Parameter(torch.empty(channels, 1, 3, 3))
        self.kernel5 = nn.Parameter(torch.empty(channels, 1, 5, 5))
        for kernel in (self.kernel1, self.kernel3, self.kernel5):
            nn.init.kaiming_uniform_(kernel, a=5**0.5)

    def kernel(self) -> Tensor:
        """Return the exact sum of the four branches, shape ``(C, 1, 5, 5)``."""
        _, one, three, five = self.alpha
        center = self.alpha[0] + one * self.kernel1
        return F.pad(center, (2, 2, 2, 2)) + F.pad(three * self.kernel3, (1, 1, 1, 1)) + five * self.kernel5

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``(B, H, W, C)``, zeros outside the image."""
        return _depthwise(x, self.kernel())

    def merged(self) -> DepthwiseShift:
        """Return one 5x5 depth-wise convolution that computes the same; ``self`` does not change."""
        return DepthwiseShift(self.kernel().detach().clone())


def _depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    mixed = F.conv2d(x.permute(0, 3, 1, 2), kernel.to(x.dtype), padding=2, groups=x.shape[-1])
    return mixed.permute(0, 2, 3, 1).contiguous()


class SpatialMix(nn.Module):
    """Mix pixels over the whole image by two Bi-WKV scans, along rows and then along columns; gated.

    Each scan has its own decay and bonus; the keys are shared and the result of the first is the value of the second.
    Restore-RWKV, section 3.3.

    Args:
        channels: number of channels ``C``.
        recurrences: number of scans; even ones follow rows, odd ones columns.
    """

    def __init__(self, channels: int, recurrences: int = 2) -> None:
        super().__init__()
        self.shift: nn.Module = OmniShift(channels)
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
        return re_wkv(self.decay.float(), self.bonus.float(), key, value, receptance, divisor=tokens)


class ChannelMix(nn.Module):
    """Mix the channels of each pixel: a gated two-layer network with squared ReLU. Restore-RWKV, section 3.2.

    Args:
        channels: number of channels ``C``.
        expansion: hidden channels for each channel.
    """

    def __init__(self, channels: int, expansion: int = 4) -> None:
        super().__init__()
        self.shift: nn.Module = OmniShift(channels)
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
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        positive = torch.relu(x)
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return 2 * grad * positive


class RRWKVBlock(nn.Module):
    """``x + gamma1 * SpatialMix(LN(x))``, then ``x + gamma2 * ChannelMix(LN(x))``. Restore-RWKV, figure 2.

    Args:
        channels: number of channels ``C``.
        recurrences: scans of the spatial mix.
    """

    def __init__(self, channels: int, recurrences: int = 2) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.spatial = SpatialMix(channels, recurrences)
        self.gamma1 = nn.Parameter(torch.ones(channels))
        self.norm2 = nn.LayerNorm(channels)
        self.channel = ChannelMix(channels)
        self.gamma2 = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(B, H, W, C)``."""
        x = torch.addcmul(x, self.gamma1, self.spatial(self.norm1(x)))
        return torch.addcmul(x, self.gamma2, self.channel(self.norm2(x)))
