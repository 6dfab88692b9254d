"""MedDeblur (Sharif et al. 2023): a scale-recurrent network of residual dense spatial-asymmetric attention (RD-SAM)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrestore_monai.networks.rd_sam import ATTENTIONS, RDSAM, RELU, RESIDUAL, ResidualDenseBlock
from medrestore_monai.networks.residual import CONTRAST, ResidualNetwork, crop, draw_weights, require_same_channels

__all__ = ["AllScales", "MedDeblur"]


class MedDeblur(ResidualNetwork):
    """MedDeblur for images of any size: at each of three scales, the image plus what a small U finds to change.

    From the coarsest scale (a quarter of the side) to the full one, the U gets the image at its scale and the result
    of the coarser one, doubled (zeros at the coarsest); a convolutional LSTM at its bottom carries what was found to
    the next scale. Each encoder and decoder level has an :class:`~medrestore_monai.networks.rd_sam.RDSAM`. All scales
    share their weights. ``scales=1`` and ``rd_sam=False`` are the rows of the paper's table 3.

    ``attention="published", residual=False`` is the network of the authors' code, with 8,028,917 parameters; counted
    once for each use, as a summary tool does that walks the calls, they are the paper's 24.1 million. The defaults, by
    which the shipped weights were trained, differ: our attention, and our residual of images without their mean. They
    have 8,031,671 parameters, and 2.12 million with ``channels=(16, 32, 64)``.

    :meth:`all_scales` also gives the results at the coarser scales, for supervision in training.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; the residual needs as many as ``in_channels``.
        channels: channels at the full, half and quarter size inside the U, multiples of 16.
        scales: number of scales; 1 is without scale recurrence: neither a coarser result nor an LSTM.
        rd_sam: refine by RD-SAM; else by three residual pairs of 5x5 convolutions, as SRN-Deblur does.
        attention: ``ours`` or ``published``, see :class:`~medrestore_monai.networks.rd_sam.RDSAM`.
        residual: ours: let the U see images without their mean, and add to them what it finds. Else as published: it
            sees images scaled to [-1, 1], samples the coarser ones from the full one bilinearly, and gives the restored
            image itself, at full size as the hyperbolic tangent, so that its values are in [0, 1] (section 3.1).

    Raises:
        ValueError: for other numbers of channels, no scale, or an unknown attention.

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
        attention: str = "ours",
        residual: bool = True,
    ) -> None:
        if scales < 1:
            raise ValueError(f"scales must be at least 1, got {scales}.")
        super().__init__(in_channels, multiple=2 ** (scales + 1))
        require_same_channels(in_channels, out_channels)
        if attention not in ATTENTIONS:
            raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)}, got {attention!r}.")
        if len(channels) != 3 or any(width < 16 or width % 16 for width in channels):
            raise ValueError(f"channels must give 3 multiples of 16, got {tuple(channels)}.")
        self.scales = scales
        self.residual = residual
        network = _ScaleNetwork(in_channels, channels, scales > 1, rd_sam, attention)
        if not residual:
            draw_weights(network.output)  # the image itself, not a small change
        self.networks = nn.ModuleList([network])  # a list: the names of the shipped weights

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
        """Return image and change of each scale, coarsest first."""
        if not self.residual:
            images = [2 * x - 1]
            images += [
                F.interpolate(images[0], scale_factor=0.5**level, mode="bilinear") for level in range(1, self.scales)
            ]
            results = self._recur(images)
            results[-1] = torch.tanh(results[-1])
            return [((i + 1) / 2, (result - i) / 2) for i, result in zip(reversed(images), results, strict=True)]
        # with the mean, features are mostly brightness, which is right already: training then closes the attention,
        # layer after layer, to add none of it, and stays there
        mean = x.mean(dim=(2, 3), keepdim=True)
        images = [CONTRAST * (x - mean)]
        for _ in range(self.scales - 1):
            images.append(F.avg_pool2d(images[-1], 2))
        changes = self._recur(images)
        return [(i / CONTRAST + mean, change / CONTRAST) for i, change in zip(reversed(images), changes, strict=True)]

    def _recur(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Return what the U gives at each scale, coarsest first, for images from the full to the coarsest scale."""
        found: list[Tensor] = []
        coarser, state = torch.zeros_like(images[-1]), None
        for image in reversed(images):
            output, state = self.networks[0](torch.cat([image, coarser], dim=1) if self.scales > 1 else image, state)
            found.append(output)
            if image is not images[0]:
                coarser, state = _double(image + output if self.residual else output), _double(state)
        return found


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

    def __init__(
        self, in_channels: int, channels: Sequence[int], recurrent: bool, rd_sam: bool, attention: str
    ) -> None:
        super().__init__()

        def refine(width: int) -> nn.Module:
            return RDSAM(width, attention) if rd_sam else nn.Sequential(*(_ResidualBlock(width) for _ in range(3)))

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
            if isinstance(module, ResidualDenseBlock | _ResidualBlock):
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


def _double(x: Tensor) -> Tensor:
    """Double the sides by bilinear interpolation."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
