"""MedDeblur (Sharif et al. 2023): a scale-recurrent network of residual dense spatial-asymmetric attention (RD-SAM)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrestore_monai.networks.residual import CONTRAST, ResidualNetwork, crop, draw_weights

__all__ = ["AllScales", "MedDeblur", "RDSAM", "SpatialAsymmetricAttention"]

GROWTH = 8  # channels that a dense layer adds
RELU = math.sqrt(2)  # what a ReLU takes from the scale of features
RESIDUAL = 0.3  # scale of what a residual block adds at the start


class MedDeblur(ResidualNetwork):
    """MedDeblur for images of any size: at each of three scales, the image plus what a small U finds to change.

    From the coarsest scale (a quarter of the side) to the full one, the U gets the image at its scale and the result
    of the coarser one, doubled (zeros at the coarsest); a convolutional LSTM at its bottom carries what was found to
    the next scale. Each encoder and decoder level has an :class:`RDSAM`. With the defaults and 3 channels it has 8.03
    million parameters, which all scales share: the paper's 24.1 million are these, counted once for each scale. With
    ``channels=(16, 32, 64)`` it has 2.12 million. ``scales=1`` and ``rd_sam=False`` are the rows of its table 3.

    :meth:`all_scales` also gives the results at the coarser scales, for supervision in training.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; the residual needs as many as ``in_channels``.
        channels: channels at the full, half and quarter size inside the U, multiples of 16.
        scales: number of scales; 1 is without scale recurrence: neither a coarser result nor an LSTM.
        rd_sam: refine by RD-SAM; else by three residual pairs of 5x5 convolutions, as SRN-Deblur does.
        share_weights: use the same weights at all scales, as the paper does; else each scale has its own.

    Raises:
        ValueError: for other numbers of channels, or no scale.

    References:
        Sharif et al., MedDeblur: Medical Image Deblurring with Residual Dense Spatial-Asymmetric Attention,
        Mathematics 11(1), 2023, https://doi.org/10.3390/math11010115
        Tao et al., Scale-recurrent Network for Deep Image Deblurring, https://arxiv.org/abs/1802.01770
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        channels: Sequence[int] = (32, 64, 128),
        scales: int = 3,
        rd_sam: bool = True,
        share_weights: bool = True,
    ) -> None:
        if scales < 1:
            raise ValueError(f"scales must be at least 1, got {scales}.")
        super().__init__(in_channels, multiple=2 ** (scales + 1))
        if in_channels != out_channels:
            raise ValueError(
                f"the residual needs out_channels equal to in_channels, got {out_channels}, {in_channels}."
            )
        if len(channels) != 3 or any(width < 16 or width % 16 for width in channels):
            raise ValueError(f"channels must give 3 multiples of 16, got {tuple(channels)}.")
        self.scales = scales
        self.networks = nn.ModuleList(
            _ScaleNetwork(in_channels, channels, scales > 1, rd_sam) for _ in range(1 if share_weights else scales)
        )

    def change(self, x: Tensor) -> Tensor:
        """Return what to add to padded images ``(B, in_channels, H, W)``."""
        return self._scales(x)[-1][1]

    def all_scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """Restore a batch, and give the results at the coarser scales, too.

        Args:
            x: see :meth:`forward`.

        Returns:
            ``scales`` batches: what :meth:`forward` returns, then of half the side, then of a quarter: sides are
            rounded up.

        Raises:
            ValueError: the input is not such a batch.
        """
        results = []
        for level, (image, change) in enumerate(reversed(self._scales(self.padded(x)))):
            height, width = (-(-side // 2**level) for side in x.shape[2:])
            results.append(crop(image + change, height, width).to(x.dtype))
        return tuple(results)

    def _scales(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return image and change of each scale, coarsest first.

        The networks see images without their mean. With it, features are mostly brightness, which is right already:
        training then closes the attention, layer after layer, to add none of it, and stays there.
        """
        mean = x.mean(dim=(2, 3), keepdim=True)
        images = [CONTRAST * (x - mean)]
        for _ in range(self.scales - 1):
            images.append(F.avg_pool2d(images[-1], 2))
        steps: list[tuple[Tensor, Tensor]] = []
        coarser, state = torch.zeros_like(images[-1]), None
        for number, image in enumerate(reversed(images)):
            network = self.networks[number % len(self.networks)]
            change, state = network(torch.cat([image, coarser], dim=1) if self.scales > 1 else image, state)
            steps.append((image, change))
            if number < self.scales - 1:
                coarser, state = _double(image + change), _double(state)
        return [(image / CONTRAST + mean, change / CONTRAST) for image, change in steps]


class AllScales(nn.Module):
    """A :class:`MedDeblur` that gives the results at all scales, for :class:`~medrestore_monai.losses.AllScalesLoss`.

    For the trainer only, which may wrap it to distribute it over devices; it holds the same weights as ``network``, and
    that is what one evaluates and saves.

    Args:
        network: what is trained.
    """

    def __init__(self, network: MedDeblur) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return :meth:`MedDeblur.all_scales`."""
        return self.network.all_scales(x)


class RDSAM(nn.Module):
    """Residual dense blocks followed by spatial-asymmetric attention.

    The paper's number of parameters follows with three blocks before one attention.

    Args:
        channels: number of channels ``C``, a multiple of 16.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(_ResidualDenseBlock(channels) for _ in range(3)))
        self.attention = SpatialAsymmetricAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Refine ``(B, C, H, W)``."""
        return self.attention(self.blocks(x))


class SpatialAsymmetricAttention(nn.Module):
    """Weigh features by place, from tall and wide convolutions, and by channel, from a 9x9 convolution's average.

    ``x * (F_V + F_H) * F_G``: ``F_V`` and ``F_H`` are the sigmoid of a 9x9 convolution of mean and maximum over the
    channels of a 3x1 and a 1x3 convolution of ``x`` (eq. 4-6); ``F_G`` is squeeze and excitation, with a sixteenth of
    the channels between, of the average over a 9x9 convolution (eq. 7). The paper's text does not say how the three
    meet; all of them multiply ``x`` here.

    Only that average is needed, so the 9x9 convolution is applied to the averages of ``x`` seen through each of the 81
    places of its kernel: the same result at a thousandth of the cost.

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


class _ResidualDenseBlock(nn.Module):
    """Three 3x3 layers, each of which sees all before it, a 1x1 fusion, and a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(channels + i * GROWTH, GROWTH, 3, padding=1) for i in range(3))
        self.fuse = nn.Conv2d(channels + 3 * GROWTH, channels, 1)

    def draw_weights(self) -> None:
        for layer in self.layers:
            draw_weights(cast(nn.Conv2d, layer), RELU)
        draw_weights(self.fuse, RESIDUAL)

    def forward(self, x: Tensor) -> Tensor:
        features = x
        for layer in self.layers:
            features = torch.cat([features, F.relu(layer(features))], dim=1)
        return x + self.fuse(features)


class _ResidualBlock(nn.Module):
    """Two 5x5 convolutions and a residual, as SRN-Deblur has them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 5, padding=2)
        self.second = nn.Conv2d(channels, channels, 5, padding=2)

    def draw_weights(self) -> None:
        draw_weights(self.first, RELU)
        draw_weights(self.second, RESIDUAL)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class _ConvLSTM(nn.Module):
    """Convolutional LSTM with a 5x5 kernel; its state holds hidden and cell state, one after the other in channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.gates = nn.Conv2d(2 * channels, 4 * channels, 5, padding=2)

    def forward(self, x: Tensor, state: Tensor | None) -> Tensor:
        """Return the next state ``(B, 2 * C, H, W)`` for features ``(B, C, H, W)``; ``None`` for a state of zeros."""
        if state is None:
            # zeros need no products
            gates = F.conv2d(x, self.gates.weight[:, : self.channels], self.gates.bias, padding=2)
            remembered = torch.zeros_like(x)
        else:
            hidden, remembered = state.chunk(2, dim=1)
            gates = self.gates(torch.cat([x, hidden], dim=1))
        enter, forget, leave, candidate = gates.chunk(4, dim=1)
        cell = torch.sigmoid(forget) * remembered + torch.sigmoid(enter) * torch.tanh(candidate)
        return torch.cat([torch.sigmoid(leave) * torch.tanh(cell), cell], dim=1)


class _ScaleNetwork(nn.Module):
    """The U of one scale, with a convolutional LSTM at its bottom where scales are recurrent."""

    def __init__(self, in_channels: int, channels: Sequence[int], recurrent: bool, rd_sam: bool) -> None:
        super().__init__()

        def refine(width: int) -> nn.Module:
            return RDSAM(width) if rd_sam else nn.Sequential(*(_ResidualBlock(width) for _ in range(3)))

        before = (in_channels * (2 if recurrent else 1), *channels)
        self.down = nn.ModuleList(
            nn.Conv2d(before[i], channels[i], 5, stride=1 if i == 0 else 2, padding=2) for i in range(3)
        )
        self.encoder = nn.ModuleList(refine(width) for width in channels)
        self.lstm = _ConvLSTM(channels[-1]) if recurrent else None
        self.decoder = nn.ModuleList(refine(width) for width in channels)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(channels[i + 1], channels[i], 5, stride=2, padding=2, output_padding=1) for i in range(2)
        )
        self.output = nn.Conv2d(channels[0], in_channels, 5, padding=2)
        self._draw_weights(2.0 if rd_sam else 1.0)

    def _draw_weights(self, gain: float) -> None:
        """Let features keep their scale through the levels; ``gain`` makes up for attention, which starts at a half."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                draw_weights(module)
        for module in self.modules():
            if isinstance(module, _ResidualDenseBlock | _ResidualBlock):
                module.draw_weights()
        for convolution in (*self.down, *self.up):
            draw_weights(convolution, gain * RELU)
        nn.init.normal_(self.output.weight, std=5e-4)  # training starts close to the identity

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the change that the decoder finds, and the next state."""
        skips = []
        for down, refine in zip(self.down, self.encoder, strict=True):
            x = refine(F.relu(down(x)))
            skips.append(x)
        x = skips.pop()
        if self.lstm is not None:
            state = self.lstm(x, state)
            x = state.chunk(2, dim=1)[0]
        x = self.decoder[2](x)
        for level in (1, 0):
            x = self.decoder[level](F.relu(self.up[level](x)) + skips.pop())
        return self.output(x), state


def _mean_and_maximum(x: Tensor) -> Tensor:
    """Mean and maximum over the channels, shape ``(B, 2, H, W)``."""
    return torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)


def _double(x: Tensor) -> Tensor:
    """Double the sides by bilinear interpolation."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
