"""Bi-WKV in pure PyTorch, on any device: two-sided decayed sums by chunked matrix products.

Decays so large that the linear sums would leave float32 go to :mod:`medrestore_monai.ops.biwkv.robust`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from medrestore_monai.ops.biwkv.robust import robust_backward, robust_forward
from medrestore_monai.ops.precision import as_float64

# exp(30) squared is still far from float32's largest number: the products of the backward pass hold
_SAFE_EXPONENT = 30.0
_CHUNK = 32


def re_wkv(
    decay: Tensor,
    first: Tensor,
    k: Tensor,
    v: Tensor,
    r: Tensor | None,
    columns: bool,
    robust: bool = False,
) -> Tensor:
    """Compute :func:`medrestore_monai.ops.biwkv.re_wkv`, in log space and float64 if ``robust``."""
    dtype = torch.promote_types(v.dtype, torch.float32)
    decay, first, k, mixed = (x.to(dtype) for x in (decay, first, k, v))
    for scan, (w, u) in enumerate(zip(decay, first, strict=True)):
        turned = bool(scan % 2) != columns
        keys, values = (x.transpose(1, 2) if turned else x for x in (k, mixed))
        mixed = _BiWKV.apply(w, u, keys.flatten(1, 2), values.flatten(1, 2), robust).view(keys.shape)
        mixed = mixed.transpose(1, 2) if turned else mixed
    if r is not None:
        mixed = torch.sigmoid(r.to(dtype)) * mixed
    return mixed.to(v.dtype)


def _is_safe(w: Tensor, u: Tensor, tokens: int) -> bool:
    """Return whether sums in linear space hold for this decay and bonus."""
    largest = torch.stack([w.detach().abs().max() * tokens, u.detach().abs().max()]).max()
    return bool(largest <= _SAFE_EXPONENT)


class _BiWKV(torch.autograd.Function):
    """Keeps its inputs only: the backward pass computes the sums again."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, u: Tensor, k: Tensor, v: Tensor, robust: bool) -> Tensor:
        ctx.save_for_backward(w, u, k, v)
        ctx.robust = robust or not _is_safe(w, u, k.shape[1])
        return (robust_forward if ctx.robust else _forward)(w, u, k, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        w, u, k, v = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            gradients = (robust_backward if ctx.robust else _backward)(w, u, k, v, grad)
        return (*gradients, None)


# --- sums in linear space -------------------------------------------------------------------------------------------
# With E = exp(k - max k), the output is L(E v) / L(E), where L x = e^u x + P + S; P and S are the decayed sums over
# all earlier and all later tokens. L is symmetric, so that the backward pass applies it again, to grad / L(E).


def _forward(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    e = torch.exp(k - k.amax(dim=1, keepdim=True))
    x = _pack(e * v, e)
    before, after = decayed_sums(w, x)
    mixed = before.add_(after).addcmul_(u.exp()[:, None, None, None], x)
    numerator, denominator = _unpack(mixed, k)
    return numerator / denominator


def _backward(w: Tensor, u: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    e = torch.exp(k - k.amax(dim=1, keepdim=True))
    bonus = u.exp()[:, None, None, None]
    x = _pack(e * v, e)
    before, after = decayed_sums(w, x)
    numerator, denominator = _unpack(torch.addcmul(before + after, bonus, x), k)
    y = numerator / denominator
    g = grad / denominator

    z = _pack(g, g * y)
    g_before, g_after = decayed_sums(w, z)
    # a pair of tokens decays once for every token between them: sum over that token
    crossing = before * g_after + after * g_before  # (C, L, N, 2B)
    first, second = crossing.chunk(2, dim=-1)
    grad_w = -(-w).exp() * (first - second).sum(dim=(1, 2, 3))
    grad_u = u.exp() * (g * (v - y) * e).sum(dim=(0, 1))
    g1, g2 = _unpack(g_before.add_(g_after).addcmul_(bonus, z), k)
    return grad_w, grad_u, e * (v * g1 - g2), e * g1


def _pack(first: Tensor, second: Tensor) -> Tensor:
    """Lay two ``(B, T, C)`` tensors out for products over chunks: ``(C, L, N, 2B)``, ``T`` padded to ``L * N``."""
    length = min(_CHUNK, first.shape[1])
    x = torch.cat([first, second])
    x = F.pad(x, (0, 0, 0, -x.shape[1] % length))
    return x.unflatten(1, (-1, length)).permute(3, 2, 1, 0).contiguous()


def _unpack(x: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Undo :func:`_pack`."""
    tokens = x.permute(3, 2, 1, 0).flatten(1, 2)[:, : like.shape[1]]
    first, second = tokens.chunk(2)
    return first, second


def decayed_sums(w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Sum what comes before and after every token, decayed by ``exp(-w)`` for every token between.

    Args:
        w: decay per token, shape ``(C,)``.
        x: what is summed, shape ``(C, L, N, M)``: token ``n * L + l`` at ``[:, l, n]``.

    Returns:
        Sums over earlier and over later tokens, each of ``x``'s shape.
    """
    _, length, chunks, _ = x.shape
    # powers of the decay are taken in float64: a rounded exp(-w) would be wrong in the third digit after 2^18 tokens
    wide = as_float64(w)
    position = torch.arange(length, device=wide.device)
    steps = position[:, None] - position - 1  # (L, L): tokens between
    decay = torch.exp(-wide[:, None, None] * steps.clamp(min=0)).masked_fill(steps < 0, 0).to(x)
    flat = x.flatten(2)
    before, after = (torch.bmm(matrix, flat).view_as(x) for matrix in (decay, decay.mT))
    if chunks > 1:
        fading = torch.exp(-wide[:, None] * position).to(x)  # (C, L): from the chunk's first token
        carried_before = _carried(wide * length, torch.bmm(fading.flip(1)[:, None], flat), chunks)
        carried_after = _carried(wide * length, torch.bmm(fading[:, None], flat), chunks, reverse=True)
        before.addcmul_(fading[:, :, None, None], carried_before[:, None])
        after.addcmul_(fading.flip(1)[:, :, None, None], carried_after[:, None])
    return before, after


def _carried(w: Tensor, totals: Tensor, chunks: int, reverse: bool = False) -> Tensor:
    """Return the decayed sum of all chunks before (after, if ``reverse``) each chunk, shape ``(C, N, M)``."""
    totals = totals.view(w.shape[0], chunks, -1)
    length = min(_CHUNK, chunks)
    x = F.pad(totals, (0, 0, 0, -chunks % length))
    x = x.unflatten(1, (-1, length)).transpose(1, 2)  # (C, L, N', M)
    sums = decayed_sums(w, x.contiguous())[int(reverse)]
    return sums.transpose(1, 2).flatten(1, 2)[:, :chunks]
