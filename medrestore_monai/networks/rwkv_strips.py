"""R-RWKV blocks in inference: by the compiled kernel where there is one, else in place, strip after strip of rows.

What happens between two scans then stays in the cache, and next to nothing beside the features is in memory. Equal to
the blocks of :mod:`medrestore_monai.networks.rwkv_blocks`, which read like the paper, within rounding.
"""

import copy
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrestore_monai.networks.rwkv_blocks import ChannelMix, RRWKVBlock, SpatialMix
from medrestore_monai.networks.token_shifts import KernelShift, UniShift
from medrestore_monai.ops.biwkv import block as block_cpu
from medrestore_monai.ops.biwkv import choose_backend
from medrestore_monai.ops.precision import multiplies_bfloat16

# numbers in a strip: on a CPU, a strip and the four times wider hidden layer fit into the cache; elsewhere few large
# operations are faster
_STRIP_CPU = 2**18
_STRIP = 2**24
_HALO = 2  # rows that a 5x5 kernel sees above and below


@torch.no_grad()
def run_blocks(blocks: Iterable[RRWKVBlock], x: Tensor) -> Tensor:
    """Apply one block after the other, without gradients, in the form that is the fastest here.

    Args:
        blocks: their weights are read, never changed.
        x: features, shape ``(B, H, W, C)``, contiguous; overwritten.

    Returns:
        Features of the same shape, in the memory of ``x`` or other.
    """
    room = None
    for block in blocks:
        if not _is_compiled(block, x):
            x = run_block_(block, x)
            continue
        room = [torch.empty_like(x) for _ in range(3)] if room is None else room
        if not _mix_space_compiled(block, x, room):
            _mix_space_(block.spatial, block.norm1, block.gamma1, x)
        room[0], x = x, _mix_channels_compiled(block, x, room[0])
    return x


def _is_compiled(block: RRWKVBlock, x: Tensor) -> bool:
    """Return whether the compiled kernel computes this kind of block for features like these."""
    mix = block.spatial
    known = type(mix) is SpatialMix and not mix.columns and len(mix.decay) == 2 and not isinstance(mix.shift, UniShift)
    fits = x.is_contiguous() and not block_cpu.refusal(x) and choose_backend(x) == "cpu"
    return known and fits


def _mix_space_compiled(block: RRWKVBlock, x: Tensor, room: Sequence[Tensor]) -> bool:
    """Add ``gamma1 * spatial(norm1(x))`` to ``x``; False, and ``x`` unchanged, where its numbers are too large."""
    mix, tokens = block.spatial, x.shape[1] * x.shape[2]
    layers = (mix.receptance, mix.key, mix.value, mix.output)
    scans = (mix.decay.float() / tokens, mix.bonus.float() / tokens)
    parameters = (*_norm_and_kernel(block.norm1, mix.shift), *(layer.weight for layer in layers), block.gamma1)
    done: bool = block_cpu.spatial_mix_(x, *room, *(p.float() for p in parameters), *scans, block.norm1.eps)
    return done


def _mix_channels_compiled(block: RRWKVBlock, x: Tensor, out: Tensor) -> Tensor:
    """Write ``x + gamma2 * channel(norm2(x))`` to ``out``, and return it."""
    mix = block.channel
    layers = (mix.receptance, mix.key, mix.value)
    parameters = (*_norm_and_kernel(block.norm2, mix.shift), *(layer.weight for layer in layers), block.gamma2)
    block_cpu.channel_mix(x, out, *(p.float() for p in parameters), block.norm2.eps)
    return out


@torch.no_grad()
def run_block_(block: RRWKVBlock, x: Tensor) -> Tensor:
    """Apply a block to features in place, without gradients.

    Args:
        block: its weights are read, never changed.
        x: features, shape ``(B, H, W, C)``, contiguous; overwritten. Where a CPU is slow in their type, such as in
            bfloat16, a strip is computed in float32. With Uni-Shift, which is no convolution, there are no strips.

    Returns:
        ``x``.
    """
    if isinstance(block.spatial.shift, UniShift):
        return x.copy_(block(x))
    with torch.autocast(x.device.type, enabled=False):
        _mix_space_(block.spatial, block.norm1, block.gamma1, x)
        _mix_channels_(block.channel, block.norm2, block.gamma2, x)
    return x


def _mix_space_(mix: SpatialMix, norm: nn.LayerNorm, gamma: Tensor, x: Tensor) -> None:
    """Add ``gamma * mix(norm(x))`` to ``x``."""
    kernel = _kernel(mix.shift, x)
    weights = [layer.weight.to(kernel.dtype).t() for layer in (mix.receptance, mix.key, mix.value)]
    maps = [torch.empty_like(x) for _ in weights]
    for image, *targets in zip(x, *maps, strict=True):
        for rows, tokens in _shifted_strips(image, norm, kernel):
            for target, weight in zip(targets, weights, strict=True):
                target[rows].flatten(0, 1).copy_(tokens @ weight)
    gated = mix.attend(*maps)
    del maps
    weight = _scaled(mix.output, gamma, kernel.dtype)
    for tokens, change in zip(*(t.flatten(0, 2).split(_strip_tokens(x)) for t in (x, gated)), strict=True):
        if tokens.dtype == weight.dtype:
            tokens.addmm_(change, weight)
        else:
            tokens.add_(change.to(weight.dtype) @ weight)


def _mix_channels_(mix: ChannelMix, norm: nn.LayerNorm, gamma: Tensor, x: Tensor) -> None:
    """Add ``gamma * mix(norm(x))`` to ``x``."""
    kernel = _kernel(mix.shift, x)
    key, receptance = (layer.weight.to(kernel.dtype).t() for layer in (mix.key, mix.receptance))
    value = _scaled(mix.value, gamma, kernel.dtype)
    for image in x:
        for rows, tokens in _shifted_strips(image, norm, kernel):
            hidden = (tokens @ key).relu_().square_()
            gate = (tokens @ receptance).sigmoid_()
            image[rows].flatten(0, 1).addcmul_(gate, hidden @ value)


def _shifted_strips(image: Tensor, norm: nn.LayerNorm, kernel: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Normalize and convolve strip by strip; a strip of ``image`` may be overwritten once it was yielded.

    Args:
        image: shape ``(H, W, C)``.
        norm: layer normalization.
        kernel: of a depth-wise convolution, shape ``(C, 1, 5, 5)``.

    Yields:
        The rows of a strip, and its tokens, shape ``(rows * W, C)``, of the kernel's type.
    """
    height, width, channels = image.shape
    weight, bias = norm.weight.to(kernel.dtype), norm.bias.to(kernel.dtype)

    def normalized(rows: Tensor) -> Tensor:
        return F.layer_norm(rows.to(kernel.dtype), (channels,), weight, bias, norm.eps)

    def zeros(rows: int) -> Tensor:
        return kernel.new_zeros(rows, width, channels)

    count = max(2 * _HALO, _strip_tokens(image) // width)
    seen = torch.cat([zeros(_HALO), normalized(image[:_HALO])])
    for start in range(0, height, count):
        stop = min(start + count, height)
        fresh = normalized(image[start + _HALO : stop + _HALO])
        below = zeros(stop - start + 2 * _HALO - len(seen) - len(fresh))
        window = torch.cat([seen, fresh, below])
        seen = window[-2 * _HALO :]  # the next strip begins with them
        mixed = F.conv2d(window[None].permute(0, 3, 1, 2), kernel, padding=(0, _HALO), groups=channels)
        yield slice(start, stop), mixed.permute(0, 2, 3, 1).reshape(-1, channels)


def apply_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a convolution or linear map; without gradients, in the type this device is fast in.

    Args:
        layer: its weight and bias are read, never changed.
        x: what it takes.

    Returns:
        The layer's result, in the type of ``x`` if that is not the fast one.
    """
    dtype = _computed_type(x.dtype, x.device.type)
    if torch.is_grad_enabled() or dtype == x.dtype:
        return layer(x)
    with torch.autocast(x.device.type, enabled=False):
        # a copy: functional_call would exchange the parameters under the hands of other threads
        return cast(Tensor, copy.deepcopy(layer).to(dtype)(x.to(dtype))).to(x.dtype)


def _kernel(shift: nn.Module, x: Tensor) -> Tensor:
    """Return the 5x5 kernel of a token shift, merged or not, in the type that strips of ``x`` are computed in."""
    return _exact_kernel(shift).to(_computed_type(x.dtype, x.device.type))


def _exact_kernel(shift: nn.Module) -> Tensor:
    return shift.kernel() if isinstance(shift, KernelShift) else cast(Tensor, shift.kernel)


def _norm_and_kernel(norm: nn.LayerNorm, shift: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    return norm.weight, norm.bias, _exact_kernel(shift)


def _scaled(layer: nn.Linear, gamma: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the matrix that takes rows ``x`` to ``gamma * layer(x)``."""
    return (layer.weight.float() * gamma.float()[:, None]).to(dtype).t()


def _strip_tokens(x: Tensor) -> int:
    return max(1, (_STRIP_CPU if x.device.type == "cpu" else _STRIP) // x.shape[-1])


@functools.cache
def _computed_type(dtype: torch.dtype, device: str) -> torch.dtype:
    """Return bfloat16 and float16 only where the processor multiplies them: without, PyTorch is many times slower."""
    if device != "cpu" or dtype in (torch.float32, torch.float64):
        return dtype
    return dtype if dtype == torch.bfloat16 and multiplies_bfloat16() else torch.float32
