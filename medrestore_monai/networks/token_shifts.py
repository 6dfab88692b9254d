"""Token shifts: how RWKV blocks let a pixel see its neighbors. Features are channels-last: ``(B, H, W, C)``.

Omni-Shift is Restore-RWKV's; Quad-Shift (Vision-RWKV) and Uni-Shift (RWKV) are what its table 5 compares with.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TOKEN_SHIFTS", "DepthwiseShift", "KernelShift", "OmniShift", "QuadShift", "UniShift"]


class KernelShift(nn.Module):
    """A token shift that is one depth-wise 5x5 convolution, zeros outside the image."""

    def kernel(self) -> Tensor:
        """Return its kernel, shape ``(C, 1, 5, 5)``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``(B, H, W, C)``, zeros outside the image."""
        # in bfloat16 the gradient of a depth-wise kernel takes a CPU more than twice as long
        with torch.autocast("cpu", enabled=False):
            mixed = F.conv2d(x.permute(0, 3, 1, 2), self.kernel().to(x.dtype), padding=2, groups=x.shape[-1])
        return mixed.permute(0, 2, 3, 1).contiguous()

    def merged(self) -> DepthwiseShift:
        """Return one 5x5 depth-wise convolution that computes the same; ``self`` does not change."""
        return DepthwiseShift(self.kernel().detach().clone())


class DepthwiseShift(nn.Module):
    """One depth-wise 5x5 convolution, what a :class:`KernelShift` becomes when merged.

    Args:
        kernel: shape ``(C, 1, 5, 5)``.
    """

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.kernel = nn.Parameter(kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, H, W, C)``, zeros outside the image."""
        mixed = F.conv2d(x.permute(0, 3, 1, 2), self.kernel.to(x.dtype), padding=2, groups=x.shape[-1])
        return mixed.permute(0, 2, 3, 1).contiguous()


class OmniShift(KernelShift):
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


class QuadShift(KernelShift):
    """Mix a pixel with one neighbor: a quarter of the channels each with the left, right, upper and lower one.

    ``mu * x + (1 - mu) * shifted``, zeros outside the image; ``mu`` is learned for each channel. Vision-RWKV, section
    3.2, which has a ``mu`` for each of receptance, key and value; here one shift serves all three, as Omni-Shift does.

    Args:
        channels: number of channels ``C``.

    References:
        Duan et al., Vision-RWKV, https://arxiv.org/abs/2403.02308
    """

    neighbors: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.full((channels,), 0.5))
        places = torch.zeros(channels, 1, 5, 5)
        number = torch.arange(channels)
        row, column = torch.tensor([(2, 1), (2, 3), (1, 2), (3, 2)])[number * 4 // channels].unbind(1)
        places[number, 0, row, column] = 1
        self.register_buffer("neighbors", places, persistent=False)

    def kernel(self) -> Tensor:
        """Return the kernel with ``mu`` in the middle and ``1 - mu`` at the neighbor, shape ``(C, 1, 5, 5)``."""
        mu = self.mu.view(-1, 1, 1, 1)
        return F.pad(mu, (2, 2, 2, 2)) + (1 - mu) * self.neighbors


class UniShift(nn.Module):
    """Mix a pixel with the one before it in the sequence of all rows: ``mu * x + (1 - mu) * before``.

    The first pixel of a row follows the last one of the row above, and nothing is before the first of all. ``mu`` is
    learned for each channel. RWKV, section 3.1.2, with one ``mu`` for receptance, key and value.

    Args:
        channels: number of channels ``C``.

    References:
        Peng et al., RWKV, https://arxiv.org/abs/2305.13048
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``(B, H, W, C)``."""
        before = F.pad(x.flatten(1, 2), (0, 0, 1, 0))[:, :-1].view_as(x)
        return torch.lerp(before, x, self.mu.to(x.dtype))


TOKEN_SHIFTS: dict[str, type[OmniShift | QuadShift | UniShift]] = {
    "omni": OmniShift,
    "quad": QuadShift,
    "uni": UniShift,
}
