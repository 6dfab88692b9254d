"""The two halves of an R-RWKV block on the CPU, in inference, by the compiled kernel: each in a few passes over memory.

Layer normalization, token shift, matrix products, gates and scans are done patch by patch, while pixels are in the
cache. Arithmetic is float32 whatever the storage. Equal within rounding to
:class:`~medrestore_monai.networks.rwkv_blocks.RRWKVBlock`, which reads like the paper.
"""

import torch
from torch import Tensor

from medrestore_monai.ops.biwkv.cpu import call, is_available, operator, shapes

_OUT_OF_RANGE = 2


def refusal(x: Tensor) -> str:
    """Say why the kernel cannot take features like these; empty where it can."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        return f"it takes float32 or bfloat16 on a CPU, got {x.dtype} on {x.device}."
    return "" if is_available() else "it was not built."


@operator("spatial_mix_", mutates_args=("x", "e", "ev", "gate"))
def spatial_mix_(
    x: Tensor,
    e: Tensor,
    ev: Tensor,
    gate: Tensor,
    norm: Tensor,
    bias: Tensor,
    kernel: Tensor,
    receptance: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    gamma: Tensor,
    decay: Tensor,
    first: Tensor,
    epsilon: float,
) -> bool:
    """Add ``gamma * mix(norm(x))`` to ``x``, where ``mix`` scans along rows and then along columns.

    Args:
        x: features, shape ``(B, H, W, C)``, contiguous, float32 or bfloat16; overwritten.
        e: memory for the weights of all tokens, as ``x``; contents do not matter, nor do those of the next two.
        ev: memory for weights times values.
        gate: memory for gates.
        norm: weight of the layer normalization, shape ``(C,)``, float32, as all that follow.
        bias: its bias, shape ``(C,)``.
        kernel: of the token shift, shape ``(C, 1, 5, 5)``.
        receptance: matrix ``(C, C)``, outputs first, as the next three.
        key: matrix.
        value: matrix.
        output: matrix.
        gamma: shape ``(C,)``.
        decay: of both scans, per token, shape ``(2, C)``.
        first: bonus of a token to itself, per token, shape ``(2, C)``.
        epsilon: of the layer normalization.

    Returns:
        False where keys, decays or bonuses are so large that this form would lose precision; ``x`` is then unchanged.

    Raises:
        MemoryError: there is no room for the workspace.
    """
    parameters = (norm, bias, kernel, receptance, key, value, output, gamma, decay, first)
    return call("rwkv_spatial_mix", x, (x, e, ev, gate), parameters, epsilon, x.shape) != _OUT_OF_RANGE


@shapes("spatial_mix_")
def _(*arguments: object) -> bool:
    return True


@operator("channel_mix", mutates_args=("out",))
def channel_mix(
    x: Tensor,
    out: Tensor,
    norm: Tensor,
    bias: Tensor,
    kernel: Tensor,
    receptance: Tensor,
    key: Tensor,
    value: Tensor,
    gamma: Tensor,
    epsilon: float,
) -> None:
    """Write ``x + gamma * mix(norm(x))`` to ``out``, where ``mix`` is the gated two-layer network on each pixel.

    Args:
        x: features, shape ``(B, H, W, C)``, contiguous, float32 or bfloat16.
        out: the result, as ``x``, and not the same memory.
        norm: weight of the layer normalization, shape ``(C,)``, float32, as all that follow.
        bias: its bias, shape ``(C,)``.
        kernel: of the token shift, shape ``(C, 1, 5, 5)``.
        receptance: matrix ``(C, C)``, outputs first.
        key: matrix ``(hidden, C)``.
        value: matrix ``(C, hidden)``.
        gamma: shape ``(C,)``.
        epsilon: of the layer normalization.

    Raises:
        MemoryError: there is no room for the workspace.
    """
    parameters = (norm, bias, kernel, receptance, key, value, gamma)
    call("rwkv_channel_mix", x, (x, out), parameters, epsilon, (*x.shape, len(key)))


@shapes("channel_mix")
def _(*arguments: object) -> None:
    return None
