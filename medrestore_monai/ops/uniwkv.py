"""Uni-WKV: the causal attention of RWKV, in which a token sees itself and those before it.

Only for comparisons: Restore-RWKV's table 5. Pure PyTorch, differentiated by autograd.
"""

import torch
from torch import Tensor

from medrestore_monai.ops.biwkv.torch_form import decayed_sums
from medrestore_monai.ops.precision import as_float64

# the sums of numbers up to exp(60), and the products of two such sums, are within float32's range times its precision
_SAFE_EXPONENT = 30.0


def uniwkv_reference(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal WKV attention, written as the formula reads.

    Token ``t`` averages the values of the tokens ``s <= t`` with weights ``softmax_s(bias[t, s] + k[s])``, where
    ``bias[t, s] = -(t - s - 1) * w`` and ``bias[t, t] = u``. Quadratic in ``T``: for tests and for readers.

    Args:
        w: decay per token of distance, shape ``(C,)``.
        u: bonus of a token to itself, shape ``(C,)``.
        k: keys, shape ``(B, T, C)``.
        v: values, shape ``(B, T, C)``.

    Returns:
        Mixed values, shape ``(B, T, C)``.

    References:
        Peng et al., RWKV, https://arxiv.org/abs/2305.13048, equation 14
    """
    t = torch.arange(k.shape[1], device=k.device)
    distance = t[:, None] - t  # (T, T)
    bias = torch.where(distance == 0, u[:, None, None], -(distance - 1) * w[:, None, None])  # (C, T, T)
    weight = (bias + k.mT[:, :, None, :]).masked_fill(distance < 0, float("-inf")).softmax(dim=-1)  # (B, C, T, T)
    return torch.einsum("bcts,bsc->btc", weight, v)


def uniwkv(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal WKV attention in linear time; the same as :func:`uniwkv_reference`.

    Args:
        w: decay per token of distance, any sign; ``abs(w) * T`` up to about 300, shape ``(C,)``.
        u: bonus of a token to itself, shape ``(C,)``.
        k: finite keys, which differ by less than about 300 in a channel, shape ``(B, T, C)``, ``T >= 1``.
        v: values, shape ``(B, T, C)``.

    Returns:
        Mixed values, shape ``(B, T, C)``, in the type of ``v``; computed in float32, and in float64 where decays or
        keys are large.
    """
    batch, tokens = k.shape[:2]
    with torch.no_grad():
        span = k.amax(dim=1, keepdim=True)
        largest = torch.stack([w.abs().max() * tokens, u.abs().max(), (span - k).max()]).max()
    safe = bool(largest <= _SAFE_EXPONENT) and v.dtype != torch.float64
    w, u, keys, values, span = (x.float() if safe else as_float64(x) for x in (w, u, k, v, span))
    e = torch.exp(keys - span)
    x = torch.cat([e * values, e]).permute(2, 1, 0)  # (C, T, 2B)
    length = min(32, tokens)
    chunks = torch.nn.functional.pad(x, (0, 0, 0, -tokens % length)).unflatten(1, (-1, length)).transpose(1, 2)
    before, _ = decayed_sums(w, chunks.contiguous())  # (C, length, chunks, 2B)
    sums = before.transpose(1, 2).flatten(1, 2)[:, :tokens] + u.exp()[:, None, None] * x
    numerator, denominator = sums.permute(2, 1, 0).split(batch)
    return (numerator / denominator).to(v)
