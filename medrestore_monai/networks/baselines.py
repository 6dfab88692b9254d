"""Networks of other authors to compare with, where no library has them."""

import torch.nn.functional as F
from torch import Tensor, nn

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
        if in_channels != out_channels:
            raise ValueError(
                f"the residual needs out_channels equal to in_channels, got {out_channels}, {in_channels}."
            )
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


def _pad_to(x: Tensor, side: int) -> Tensor:
    """Pad below and on the right to at least ``side``, by reflection, or by repeating an edge too near to reflect."""
    for axis in (-2, -1):
        amount = max(0, side - x.shape[axis])
        pad = (0, 0, 0, amount) if axis == -2 else (0, amount, 0, 0)
        x = F.pad(x, pad, mode="reflect" if amount < x.shape[axis] else "replicate")
    return x
