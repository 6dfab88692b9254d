"""Networks of other authors to compare with, where no library has them."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from monai.networks.nets.patchgan_discriminator import PatchDiscriminator
from torch import Tensor, nn

from medrestore_monai.networks.meddeblur import MedDeblur
from medrestore_monai.networks.residual import ResidualNetwork, require_same_channels

# each of the five convolutions shortens a side by 4 pixels
SMALLEST = 5 * 4 + 1


class REDCNN(nn.Module):
    """RED-CNN (Chen et al. 2017): five 5x5 convolutions, five transposed ones, and three shortcuts between them.

    Nothing is padded: the convolutions shrink the image and the transposed ones bring it back. A ReLU follows every
    layer, the last one too, so that the output is never negative. With 96 channels it has 1.85 million parameters.
    The weights start as PyTorch's layers do.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; the residual needs as many as ``in_channels``.
        channels: channels of the features.

    References:
        Chen et al., Low-Dose CT with a Residual Encoder-Decoder Convolutional Neural Network,
        https://arxiv.org/abs/1702.00288
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 1, channels: int = 96) -> None:
        super().__init__()
        require_same_channels(in_channels, out_channels)
        self.in_channels = in_channels
        widths = [in_channels, *[channels] * 5]
        self.encoder = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 5) for i in range(5))
        self.decoder = nn.ModuleList(nn.ConvTranspose2d(widths[i + 1], widths[i], 5) for i in reversed(range(5)))

    def forward(self, x: Tensor) -> Tensor:
        """Restore a batch.

        Args:
            x: degraded images scaled to [0, 1], shape ``(B, in_channels, H, W)``, any ``H, W >= 1``. Sides below 21
                pixels are padded for the computation.

        Returns:
            Restored images, of the same shape, not negative.

        Raises:
            ValueError: the input is not such a batch.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels or x.numel() == 0:
            raise ValueError(f"expected a non-empty (B, {self.in_channels}, H, W), got {tuple(x.shape)}.")
        features = _pad_to(x, SMALLEST)
        shortcuts = []
        for layer, convolution in enumerate(self.encoder):
            if layer % 2 == 0:
                shortcuts.append(features)  # the image, and what layers 2 and 4 gave
            features = F.relu(convolution(features), inplace=True)
        for layer, convolution in enumerate(self.decoder):
            features = convolution(features)
            if layer % 2 == 0:
                features = features + shortcuts.pop()
            features = F.relu(features, inplace=True)
        return features[:, :, : x.shape[2], : x.shape[3]]


class Residual(ResidualNetwork):
    """Any network from images to images, such as MONAI's UNet, made to find what must be added to its input.

    So that it is compared with the other networks here on equal terms: the global residual, any image size, and the
    refusal of wrong input are the same.

    Args:
        network: maps ``(B, in_channels, H, W)`` to the same shape where the sides are multiples of ``multiple``; with
            context, ``(B, 2 * context + 1, H, W)`` to one channel.
        in_channels: channels of the images.
        multiple: what the sides are padded to multiples of; 2 to the number of times that ``network`` halves them, and
            above the smallest side that it takes.
        without_mean: see :class:`~medrestore_monai.networks.residual.ResidualNetwork`.
        context: neighboring slices on each side that the network sees, as in
            :class:`~medrestore_monai.networks.RestoreRWKV`; the residual is on the middle slice.

    Raises:
        ValueError: if ``in_channels`` is not positive, or for context of several channels.
    """

    def __init__(
        self,
        network: nn.Module,
        in_channels: int = 1,
        multiple: int = 16,
        without_mean: bool = False,
        context: int = 0,
    ) -> None:
        if context < 0 or (context and in_channels != 1):
            raise ValueError(
                f"context must be at least 0, and 0 for several channels, got {context} for {in_channels}."
            )
        super().__init__(in_channels * (2 * context + 1), multiple, without_mean)
        self.context = context
        self.network = network

    def change(self, x: Tensor) -> Tensor:
        """Return what to add to padded images ``(B, in_channels, H, W)``."""
        change: Tensor = self.network(x)
        return change

    def changed(self, x: Tensor, change: Tensor) -> Tensor:
        """Add to a batch, or to the middle slices of one with context, what :meth:`change` gave for it."""
        return super().changed(x[:, self.context : self.context + 1] if self.context else x, change)


class SRNDeblur(MedDeblur):
    """SRN-Deblur (Tao et al. 2018): the scale-recurrent network that MedDeblur refines, with plain residual blocks.

    It is :class:`~medrestore_monai.networks.meddeblur.MedDeblur` with three pairs of 5x5 convolutions a level in the
    place of RD-SAM, so that the two differ in nothing else; the original adds no image to its output. With the
    defaults and 3 channels it has 10.25 million parameters.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; the residual needs as many as ``in_channels``.
        channels: channels at the full, half and quarter size inside the U, multiples of 16.
        scales: number of scales.

    Raises:
        ValueError: for other numbers of channels, or no scale.

    References:
        Tao et al., Scale-recurrent Network for Deep Image Deblurring, https://arxiv.org/abs/1802.01770
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        channels: Sequence[int] = (32, 64, 128),
        scales: int = 3,
    ) -> None:
        super().__init__(in_channels, out_channels, channels, scales, rd_sam=False)


class DeblurGANGenerator(ResidualNetwork):
    """Generator of DeblurGAN (Kupyn et al. 2018): nine residual blocks at a quarter of the side.

    The change to the image is limited to [-1, 1] by a hyperbolic tangent. With the defaults and 3 channels it has
    11.37 million parameters.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; the residual needs as many as ``in_channels``.
        channels: channels at full size, doubled at half and at a quarter.
        blocks: number of residual blocks.
        dropout: share of the features that training drops in each residual block.

    Raises:
        ValueError: if the numbers of channels differ.

    References:
        Kupyn et al., DeblurGAN: Blind Motion Deblurring Using Conditional Adversarial Networks,
        https://arxiv.org/abs/1711.07064
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        channels: int = 64,
        blocks: int = 9,
        dropout: float = 0.5,
    ) -> None:
        # a quarter of 8 pixels is the least that instance normalization and padding by reflection take
        super().__init__(in_channels, multiple=8)
        require_same_channels(in_channels, out_channels)
        up: dict[str, Any] = {"stride": 2, "padding": 1, "output_padding": 1, "bias": False}
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, channels, 7, padding=3, padding_mode="reflect", bias=False),
            *_normalized(channels),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False),
            *_normalized(2 * channels),
            nn.Conv2d(2 * channels, 4 * channels, 3, stride=2, padding=1, bias=False),
            *_normalized(4 * channels),
            *(_GeneratorBlock(4 * channels, dropout) for _ in range(blocks)),
            nn.ConvTranspose2d(4 * channels, 2 * channels, 3, **up),
            *_normalized(2 * channels),
            nn.ConvTranspose2d(2 * channels, channels, 3, **up),
            *_normalized(channels),
            nn.Conv2d(channels, out_channels, 7, padding=3, padding_mode="reflect"),
            nn.Tanh(),
        )

    def change(self, x: Tensor) -> Tensor:
        """Return what to add to padded images ``(B, in_channels, H, W)``."""
        return self.layers(x)


class DeblurGANDiscriminator(nn.Module):
    """Discriminator of DeblurGAN: MONAI's ``PatchDiscriminator`` with instance normalization, scores without a sigmoid.

    Train it with :class:`~medrestore_monai.losses.WassersteinDiscriminatorLoss`.

    Args:
        in_channels: channels of the images.
        channels: channels after the first convolution.

    References:
        Kupyn et al., DeblurGAN, https://arxiv.org/abs/1711.07064; Isola et al., https://arxiv.org/abs/1611.07004
    """

    def __init__(self, in_channels: int = 3, channels: int = 64) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.patches = PatchDiscriminator(spatial_dims=2, channels=channels, in_channels=in_channels, norm="INSTANCE")

    def forward(self, x: Tensor) -> Tensor:
        """Score a batch.

        Args:
            x: images scaled to [0, 1], shape ``(B, in_channels, H, W)``, sides of at least 24 pixels.

        Returns:
            One score per patch, larger for images that look clean, shape ``(B, 1, H // 8 - 2, W // 8 - 2)``.

        Raises:
            ValueError: the input is not such a batch.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels or x.shape[0] == 0 or min(x.shape[2:]) < 24:
            raise ValueError(
                f"expected a non-empty (B, {self.in_channels}, H, W) with sides of at least 24, got {tuple(x.shape)}."
            )
        return self.patches(x)[-1]


class _GeneratorBlock(nn.Module):
    """Two 3x3 convolutions with instance normalization, and a residual."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        options: dict[str, Any] = {"padding": 1, "padding_mode": "reflect", "bias": False}
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, **options),
            *_normalized(channels),
            nn.Dropout(dropout),
            nn.Conv2d(channels, channels, 3, **options),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _normalized(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.InstanceNorm2d(channels), nn.ReLU()


def _pad_to(x: Tensor, side: int) -> Tensor:
    """Pad below and on the right to at least ``side``, by reflection, or by repeating an edge too near to reflect."""
    for axis in (-2, -1):
        amount = max(0, side - x.shape[axis])
        pad = (0, 0, 0, amount) if axis == -2 else (0, amount, 0, 0)
        x = F.pad(x, pad, mode="reflect" if amount < x.shape[axis] else "replicate")
    return x
