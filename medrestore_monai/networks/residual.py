"""What the deblurring networks share: any image size, refusal of wrong input, the global residual, inference forms."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "CONTRAST",
    "Pointwise",
    "ResidualNetwork",
    "crop",
    "draw_weights",
    "leaky_relu",
    "pad_to_multiple",
    "require_same_channels",
    "runs_channels_last",
    "start_with_sum_zero",
]

CONTRAST = 4.0  # brings the contrast of pictures scaled to [0, 1] near 1


class ResidualNetwork(nn.Module):
    """The input plus the change that a network finds, for images of any size.

    A subclass implements :meth:`change`, which sees sides that are multiples of ``multiple``. The sum is in the type
    of the image: weights of lower precision blur the change only.

    Args:
        in_channels: channels of the images.
        multiple: what the padded sides are multiples of.
        without_mean: let :meth:`change` see images without the mean of each channel, times four. Features are else
            mostly brightness, which is right already, and hide what is to be found.

    Raises:
        ValueError: if ``in_channels`` is not positive.
    """

    def __init__(self, in_channels: int, multiple: int, without_mean: bool = False) -> None:
        super().__init__()
        if in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, got {in_channels}.")
        self.in_channels = in_channels
        self.multiple = multiple
        self.without_mean = without_mean

    def forward(self, x: Tensor) -> Tensor:
        """Restore a batch.

        Args:
            x: degraded images scaled to [0, 1], shape ``(B, in_channels, H, W)``, any ``H, W >= 1``.

        Returns:
            Restored images, of the same shape.

        Raises:
            ValueError: the input is not such a batch.
        """
        return self.changed(x, self.change(_in_fast_layout(self.padded(x))))

    def change(self, x: Tensor) -> Tensor:
        """Return what to add to padded images ``(B, in_channels, H, W)``."""
        raise NotImplementedError

    def padded(self, x: Tensor) -> Tensor:
        """Check a batch, and return what :meth:`change` sees of it, with the sides and the type the network needs."""
        if x.ndim != 4 or x.shape[1] != self.in_channels or x.numel() == 0:
            raise ValueError(f"expected a non-empty (B, {self.in_channels}, H, W), got {tuple(x.shape)}.")
        if self.without_mean:
            x = CONTRAST * (x - x.mean(dim=(2, 3), keepdim=True))
        x = pad_to_multiple(x, self.multiple)
        return x.to(next(self.parameters()).dtype)

    def changed(self, x: Tensor, change: Tensor) -> Tensor:
        """Add to a batch what :meth:`change` gave for it."""
        if self.without_mean:
            change = change / CONTRAST
        return x + crop(change, x.shape[2], x.shape[3]).to(x.dtype)

    def in_bfloat16(self) -> ResidualNetwork:
        """Return a network for inference with bfloat16 weights, for float32 images; ``self`` does not change."""
        return copy.deepcopy(self).eval().requires_grad_(False).bfloat16()

    def exportable(self) -> nn.Module:
        """Return the network in the form for exporters, for inference: one program for all image sizes."""
        return copy.deepcopy(self).eval().requires_grad_(False)

    def exportable_parts(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Return :meth:`padded`, :meth:`change` and :meth:`changed` as modules for exporters, for inference.

        An exporter that keeps height and width free works out the sides of all features from them. In the middle part
        these are multiples of ``multiple`` without a remainder, which spares it minutes.
        """
        network = self.exportable()
        parts = (_Part(network, name) for name in ("padded", "change", "changed"))
        return next(parts), next(parts), next(parts)


class _Part(nn.Module):
    """One method of a network, as a module."""

    def __init__(self, network: nn.Module, method: str) -> None:
        super().__init__()
        self.network, self.method = network, method

    def forward(self, x: Tensor, change: Tensor | None = None) -> Tensor:
        result: Tensor = getattr(self.network, self.method)(*((x,) if change is None else (x, change)))
        return result


def require_same_channels(in_channels: int, out_channels: int) -> None:
    """Refuse a network whose output cannot be added to its input.

    Raises:
        ValueError: the numbers of channels differ.
    """
    if in_channels != out_channels:
        raise ValueError(f"the residual needs out_channels equal to in_channels, got {out_channels}, {in_channels}.")


def _in_fast_layout(x: Tensor) -> Tensor:
    """Return a batch with channels last in memory where convolutions are faster so: on CPUs, in inference."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or _is_captured():
        return x
    return x.contiguous(memory_format=torch.channels_last)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution; of channels that lie last in memory, in inference, it is one matrix product.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        bias: as in PyTorch.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``, in the layout of ``x``."""
        if not runs_channels_last(x):
            return super().forward(x)
        product = x.permute(0, 2, 3, 1) @ self.weight.flatten(1).t()
        # not F.linear: it would write the bias to all pixels first
        return (product if self.bias is None else product.add_(self.bias)).permute(0, 3, 1, 2)


def _is_captured() -> bool:
    """Whether a program is made of what runs, which must then fit other sizes, too."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def runs_channels_last(x: Tensor) -> bool:
    """Whether this is inference, not to be captured as a program, on features whose channels lie last in memory."""
    if torch.is_grad_enabled() or _is_captured():
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def leaky_relu(x: Tensor, slope: float) -> Tensor:
    """As ``torch.nn.functional.leaky_relu``; without gradients ``x`` itself is overwritten."""
    return F.leaky_relu(x, slope, inplace=not torch.is_grad_enabled())


def draw_weights(convolution: nn.Conv2d | nn.ConvTranspose2d, gain: float = 1.0) -> None:
    """Draw normal weights that keep the scale of features, and clear the bias.

    PyTorch's own start divides the variance by three a layer, after which a deep network without normalization hardly
    learns.

    Args:
        convolution: changed in place.
        gain: factor on the scale, such as ``sqrt(2)`` before a ReLU.
    """
    inputs: float = convolution.in_channels // convolution.groups * math.prod(convolution.kernel_size)
    if isinstance(convolution, nn.ConvTranspose2d):
        inputs /= math.prod(convolution.stride)  # of its kernel elements, a pixel sees one in so many
    nn.init.normal_(convolution.weight, std=gain / math.sqrt(inputs))
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


def start_with_sum_zero(weight: Tensor) -> None:
    """Let each kernel sum to zero, so that it starts as a filter of detail.

    Where features are mostly brightness, which is right already, they otherwise drown what is to be found.

    Args:
        weight: kernels ``(..., H, W)``, changed in place.
    """
    with torch.no_grad():
        weight -= weight.mean(dim=(-2, -1), keepdim=True)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad below and on the right by reflection, or by repeating the edge of an image too small to reflect.

    By index and not by ``F.pad``, so that a captured program keeps height and width free.

    Args:
        x: shape ``(B, C, H, W)``.
        multiple: the new sides are the next multiples of it.

    Returns:
        Shape ``(B, C, H', W')``.
    """
    for axis in (2, 3):
        size = x.shape[axis]
        if not _is_captured() and size % multiple == 0:
            continue
        index = torch.arange((size + multiple - 1) // multiple * multiple, device=x.device)
        mirrored = 2 * (size - 1) - index
        beyond = torch.where(mirrored[-1:] >= 0, mirrored, size - 1)
        x = x.index_select(axis, torch.where(index < size, index, beyond))
    return x


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """Keep the first rows and columns, by index: a slice would tie a captured program to sizes that need padding."""
    if not _is_captured():
        return x[:, :, :height, :width]
    for axis, size in ((2, height), (3, width)):
        x = x.index_select(axis, torch.arange(size, device=x.device))
    return x
