"""Restore-RWKV (Yang et al., arXiv 2407.11087): a four-level U of R-RWKV blocks with a global residual."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medrestore_monai.networks.residual import pad_to_multiple, require_same_channels
from medrestore_monai.networks.rwkv_blocks import ATTENTIONS, SCANS, RRWKVBlock, SpatialMix
from medrestore_monai.networks.rwkv_strips import apply_layer, run_blocks
from medrestore_monai.networks.token_shifts import TOKEN_SHIFTS, KernelShift

_LANES = 16  # of the widest registers, in float32
LEVELS = 4
MULTIPLE = 2 ** (LEVELS - 1)


class RestoreRWKV(nn.Module):
    """Restore-RWKV for images of any size: the input plus what a U of R-RWKV blocks finds to change.

    The defaults are the paper's model (27.9 million parameters). The light one, ``dim=16, num_blocks=(1, 2, 2, 2),
    num_refinement_blocks=1``, has 1.19 million; the paper reports a light model of 1.16 million without its shape.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; the residual needs as many as ``in_channels``.
        dim: channels at full size; doubled at each of the three smaller sizes.
        num_blocks: blocks at each of the four sizes, encoder and decoder alike.
        num_refinement_blocks: blocks after the decoder, at full size with ``2 * dim`` channels.
        recurrences: Bi-WKV scans a block, alternately along rows and columns.
        use_checkpoint: in training, compute the blocks again in the backward pass instead of keeping what they need.
        attention: ``re-wkv``; for comparison ``bi-wkv``, one scan along rows, or ``uni-wkv``, one that looks back only
            (the paper's table 5); ``bi-wkv-columns``, one scan along columns (table 6); ``alternating``, one scan along
            rows or columns, in turn from block to block, or ``sum``, both within a block, added (table 7). Only
            ``re-wkv`` has ``recurrences``.
        token_shift: ``omni``; for comparison ``quad`` (Vision-RWKV) or ``uni`` (RWKV).
        context: neighboring slices on each side that the network sees beside the one that it restores; 0 is the
            paper's network. Of one channel only: the input then has ``2 * context + 1`` channels, the slices from
            ``-context`` to ``context``, where missing ones are copies of the middle one; the residual is on that.
        bias: let the embedding, the fusions and the output convolution have biases, as the public code does; the
            shipped weights have none.

    Raises:
        ValueError: for other numbers of channels or blocks, context for several channels, or an unknown attention or
            token shift.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        recurrences: int = 2,
        use_checkpoint: bool = False,
        attention: str = "re-wkv",
        token_shift: str = "omni",
        context: int = 0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        require_same_channels(in_channels, out_channels)
        if context < 0 or (context and in_channels != 1):
            raise ValueError(
                f"context must be at least 0, and 0 for several channels, got {context} for {in_channels}."
            )
        if len(num_blocks) != LEVELS:
            raise ValueError(f"num_blocks must give {LEVELS} numbers, got {tuple(num_blocks)}.")
        for what, value, known in (
            ("attention", attention, (*ATTENTIONS, *SCANS)),
            ("token_shift", token_shift, tuple(TOKEN_SHIFTS)),
        ):
            if value not in known:
                raise ValueError(f"{what} must be one of {', '.join(known)}, got {value!r}.")
        self.in_channels = in_channels * (2 * context + 1)
        self.context = context
        self.use_checkpoint = use_checkpoint

        def stage(channels: int, blocks: int, before: int) -> nn.ModuleList:
            options = (channels, recurrences, attention, token_shift)
            return nn.ModuleList(RRWKVBlock(*options, number=before + number) for number in range(blocks))

        encoded = sum(num_blocks)
        widths = [dim * 2**level for level in range(LEVELS)]
        self.embed = nn.Conv2d(self.in_channels, dim, 3, padding=1, bias=bias)
        self.encoder = nn.ModuleList(stage(widths[i], num_blocks[i], sum(num_blocks[:i])) for i in range(LEVELS))
        self.down = nn.ModuleList(nn.Conv2d(widths[i], widths[i] // 2, 3, padding=1, bias=False) for i in range(3))
        self.up = nn.ModuleList(nn.Conv2d(widths[i + 1], widths[i + 1] * 2, 3, padding=1, bias=False) for i in range(3))
        self.fuse = nn.ModuleList(nn.Linear(2 * widths[i], widths[i], bias=bias) for i in (1, 2))
        # the finest level keeps both halves of its skip connection
        self.decoder = nn.ModuleList(
            stage(max(widths[i], 2 * dim), num_blocks[i], encoded + sum(num_blocks[i + 1 : 3])) for i in range(3)
        )
        self.refinement = stage(2 * dim, num_refinement_blocks, encoded + sum(num_blocks[:3]))
        self.output = nn.Conv2d(2 * dim, out_channels, 3, padding=1, bias=bias)
        nn.init.normal_(self.output.weight, std=1e-3)  # training starts close to the identity

    def forward(self, x: Tensor) -> Tensor:
        """Restore a batch.

        Args:
            x: degraded images scaled to [0, 1], shape ``(B, in_channels, H, W)``, any ``H, W >= 1``; with context,
                ``(B, 2 * context + 1, H, W)``.

        Returns:
            Restored images, of the same shape; with context, the middle slices, ``(B, 1, H, W)``.

        Raises:
            ValueError: the input is not such a batch.
        """
        return self._restore(x, lambda features, level, decoding: features)

    def _restore(self, x: Tensor, enter: Callable[[Tensor, int, bool], Tensor]) -> Tensor:
        """Restore a batch; ``enter`` may change the features at the beginning of each level, encoder and decoder."""
        if x.ndim != 4 or x.shape[1] != self.in_channels or x.numel() == 0:
            raise ValueError(f"expected a non-empty (B, {self.in_channels}, H, W), got {tuple(x.shape)}.")
        padded = pad_to_multiple(x, MULTIPLE)
        padded = padded.to(self.embed.weight.dtype)
        features = self._run(self.encoder[0], enter(_convolve(self.embed, padded.permute(0, 2, 3, 1)), 0, False))
        skips = []
        for level in range(1, LEVELS):
            skips.append(features)
            features = enter(_downsample(self.down[level - 1], features), level, False)
            features = self._run(self.encoder[level], features)
        for level in reversed(range(3)):
            features = torch.cat([_upsample(self.up[level], features), skips.pop()], dim=-1)
            if level > 0:
                features = apply_layer(self.fuse[level - 1], features)
            features = self._run(self.decoder[level], enter(features, level, True))
        features = self._run(self.refinement, features)
        change = _convolve_to_few(self.output, features)
        # the sum in the type of the image: weights of lower precision blur the change only
        return self.middle(x) + change[:, :, : x.shape[2], : x.shape[3]].to(x.dtype)

    def middle(self, x: Tensor) -> Tensor:
        """The slices that are restored, ``(B, in_channels, H, W)``: of a batch without context, all."""
        return x[:, self.context : self.context + 1] if self.context else x

    def with_neighbors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn weights of less context, such as none, into weights of this network, which then computes the same.

        Args:
            state: a state dict; the neighbors that its network does not see get weights of zero.
        """
        changed, more = dict(state), self._more_slices(state)
        if more > 0:
            changed["embed.weight"] = F.pad(state["embed.weight"], (0, 0, 0, 0, more, more))
        return changed

    def without_neighbors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn weights of more context into weights of this network, which then computes the same as without neighbors.

        Args:
            state: a state dict; the neighbors that this network does not see count as copies of the middle slice.
        """
        changed, less = dict(state), -self._more_slices(state)
        if less > 0:
            weight = state["embed.weight"]
            kept = weight[:, less:-less].clone()
            kept[:, self.context] += weight[:, :less].sum(dim=1) + weight[:, -less:].sum(dim=1)
            changed["embed.weight"] = kept
        return changed

    def _more_slices(self, state: Mapping[str, Tensor]) -> int:
        """Return how many slices on each side this network sees more than that of ``state``; 0 for color."""
        weight = state.get("embed.weight")
        if weight is None or weight.ndim != 4 or self.in_channels != 2 * self.context + 1 or weight.shape[1] % 2 == 0:
            return 0
        return (self.in_channels - weight.shape[1]) // 2

    def _run(self, blocks: nn.Module, features: Tensor) -> Tensor:
        """Apply one block after the other; without gradients, ``features`` are overwritten."""
        if not torch.is_grad_enabled():
            return run_blocks((cast(RRWKVBlock, block) for block in blocks.children()), features)
        for block in blocks.children():
            if self.use_checkpoint and self.training:
                features = checkpoint(block, features, use_reentrant=False)
            else:
                features = block(features)
        return features

    def in_bfloat16(self) -> "RestoreRWKV":
        """Return a network for inference with bfloat16 weights, for float32 images; ``self`` does not change.

        Decay and bonus of Bi-WKV stay float32.
        """
        twin = copy.deepcopy(self).eval().requires_grad_(False).bfloat16()
        for mix, exact in zip(twin.modules(), self.modules(), strict=True):
            if isinstance(mix, SpatialMix) and isinstance(exact, SpatialMix):
                mix.decay.data, mix.bonus.data = exact.decay.data.clone(), exact.bonus.data.clone()
        return twin

    def merged(self) -> "RestoreRWKV":
        """Return a network for inference whose token shifts are single convolutions; ``self`` does not change."""
        twin = copy.deepcopy(self).eval().requires_grad_(False)
        for module in list(twin.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, KernelShift):
                    setattr(module, name, child.merged().requires_grad_(False))
        return twin

    def exportable(self) -> nn.Module:
        """Return the network in the form for exporters, for inference: the same weights, the same state dict.

        See :class:`~medrestore_monai.networks.restore_rwkv.planes.RestoreRWKVPlanes`; where onnxscript is installed,
        ``torch.onnx.export`` then knows how to write it.

        Raises:
            ValueError: that form does not know this network's attention or token shift.
        """
        from medrestore_monai.networks.restore_rwkv.planes import RestoreRWKVPlanes
        from medrestore_monai.ops import re_wkv_onnx

        re_wkv_onnx.register()
        return RestoreRWKVPlanes(self).eval()


def _convolve(convolution: nn.Module, x: Tensor) -> Tensor:
    """Apply a 2D convolution to channels-last features, which it takes and gives without a copy."""
    return apply_layer(convolution, x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()


def _convolve_to_few(convolution: nn.Module, x: Tensor) -> Tensor:
    """Apply a 3x3 convolution with few outputs to channels-last features; the result is ``(B, outputs, H, W)``.

    Without gradients on a CPU it is a 1x1 convolution and a sum of nine shifted images: a convolution is slow there
    whose outputs are fewer than the lanes of a register.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu" or not isinstance(convolution, nn.Conv2d):
        return _convolve(convolution, x).permute(0, 3, 1, 2)
    (batch, height, width, channels), outputs = x.shape, convolution.out_channels
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    weight = convolution.weight.to(dtype).permute(2, 3, 0, 1).reshape(-1, channels, 1, 1)
    # filled up, so that results are the same for any number of threads
    weight = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, -len(weight) % _LANES))
    taps = F.conv2d(x.permute(0, 3, 1, 2).to(dtype), weight)[:, : 9 * outputs].contiguous()
    taps = taps.view(batch, 3, 3, outputs, height, width)
    result = taps[:, 1, 1].clone()
    for row, column in ((row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)):
        (to_y, from_y), (to_x, from_x) = _overlap(row - 1, height), _overlap(column - 1, width)
        result[..., to_y, to_x] += taps[:, row, column, :, from_y, from_x]
    return result if convolution.bias is None else result + convolution.bias.to(dtype).view(-1, 1, 1)


def _overlap(offset: int, size: int) -> tuple[slice, slice]:
    """Return which positions have a neighbor at an offset, and where these neighbors are."""
    return slice(max(-offset, 0), size - max(offset, 0)), slice(max(offset, 0), size + min(offset, 0))


def _downsample(convolution: nn.Module, x: Tensor) -> Tensor:
    """Halve the size and double the channels: convolution, then pixel-unshuffle."""
    x = apply_layer(convolution, x.permute(0, 3, 1, 2))
    return F.pixel_unshuffle(x, 2).permute(0, 2, 3, 1).contiguous()


def _upsample(convolution: nn.Module, x: Tensor) -> Tensor:
    """Double the size and halve the channels: convolution, then pixel-shuffle."""
    x = apply_layer(convolution, x.permute(0, 3, 1, 2))
    return F.pixel_shuffle(x, 2).permute(0, 2, 3, 1).contiguous()
