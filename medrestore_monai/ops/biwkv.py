"""Bi-WKV: linear-time attention in which a token weighs every other by its key and its distance.

:func:`biwkv_reference` is the formula and the judge of every faster form; :func:`biwkv` and :func:`biwkv2d` are what
networks call. Three forms stand behind them, equal within rounding:

- ``cpu``: the plain-C kernel (:mod:`medrestore_monai.ops.biwkv_cpu`), where it was built;
- ``torch``: two-sided decayed sums by chunked matrix products, pure PyTorch, any device;
- ``robust``: log-space sums in float64, for decays so large that the linear sums would leave float32. Both others
  hand such calls on to it.
"""

import os

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from medrestore_monai.ops import biwkv_cpu
from medrestore_monai.ops.biwkv_robust import robust_backward, robust_forward

BACKENDS = ("auto", "torch", "cpu", "robust")

# exp(30) squared is still far from float32's largest number: the products of the backward pass hold
_SAFE_EXPONENT = 30.0
_CHUNK = 32


def biwkv_reference(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Bidirectional WKV attention, written as the formula reads.

    Token ``t`` averages the values of all tokens ``s`` with weights ``softmax_s(bias[t, s] + k[s])``,
    where ``bias[t, s] = -(|t - s| - 1) * w`` and ``bias[t, t] = u``.
    Quadratic in ``T``: for tests and for readers; everything else calls :func:`biwkv`.

    Args:
        w: decay per token of distance, shape ``(C,)``.
        u: bonus of a token to itself, shape ``(C,)``.
        k: keys, shape ``(B, T, C)``.
        v: values, shape ``(B, T, C)``.

    Returns:
        Mixed values, shape ``(B, T, C)``.

    References:
        Duan et al., Vision-RWKV, https://arxiv.org/abs/2403.02308
    """
    t = torch.arange(k.shape[1], device=k.device)
    distance = (t[:, None] - t).abs()  # (T, T)
    bias = torch.where(distance == 0, u[:, None, None], -(distance - 1) * w[:, None, None])  # (C, T, T)
    weight = (bias + k.mT[:, :, None, :]).softmax(dim=-1)  # (B, C, T, T)
    return torch.einsum("bcts,bsc->btc", weight, v)


def biwkv(w: Tensor, u: Tensor, k: Tensor, v: Tensor, backend: str = "auto") -> Tensor:
    """Bi-WKV attention in linear time and memory; the same as :func:`biwkv_reference`.

    Args:
        w: decay per token of distance, any sign, shape ``(C,)``.
        u: bonus of a token to itself, shape ``(C,)``.
        k: finite keys, shape ``(B, T, C)``, ``T >= 1``.
        v: values, shape ``(B, T, C)``.
        backend: one of :data:`BACKENDS`. ``auto`` takes the fastest that fits; one named is used or refused.

    Returns:
        Mixed values, shape ``(B, T, C)``, in the type of ``v``; computed in float32 (float64 for float64 input),
        inside autocast too.

    Raises:
        ValueError: a shape or the backend's name is wrong.
        RuntimeError: the backend named is not available for these tensors.
    """
    if k.ndim != 3:
        raise ValueError(f"keys must have shape (B, T, C), got {tuple(k.shape)}.")
    return biwkv2d(w, u, k[:, None], v[:, None], backend=backend)[:, 0]


def biwkv2d(w: Tensor, u: Tensor, k: Tensor, v: Tensor, columns: bool = False, backend: str = "auto") -> Tensor:
    """Bi-WKV attention over the pixels of an image, row after row or column after column.

    Args:
        w: decay per token of distance, any sign, shape ``(C,)``.
        u: bonus of a token to itself, shape ``(C,)``.
        k: finite keys, shape ``(B, H, W, C)``.
        v: values, shape ``(B, H, W, C)``.
        columns: token ``t`` is pixel ``(t % H, t // H)`` instead of ``(t // W, t % W)``.
        backend: see :func:`biwkv`.

    Returns:
        Mixed values, shape ``(B, H, W, C)``; errors as in :func:`biwkv`.
    """
    if k.ndim != 4 or k.shape != v.shape or k.numel() == 0:
        raise ValueError(f"keys and values must have one non-empty shape, got {tuple(k.shape)} and {tuple(v.shape)}.")
    channels = k.shape[-1]
    if w.shape != (channels,) or u.shape != (channels,):
        raise ValueError(f"w and u must have shape ({channels},), got {tuple(w.shape)} and {tuple(u.shape)}.")
    chosen = choose_backend(k, backend)
    with torch.autocast(k.device.type, enabled=False):
        if chosen == "cpu" and _is_safe(w, u, k.shape[1] * k.shape[2]):
            return biwkv_cpu.biwkv2d(w.float(), u.float(), k.to(v.dtype).contiguous(), v.contiguous(), columns)
        dtype = torch.promote_types(v.dtype, torch.float32)
        keys, values = (x.to(dtype).transpose(1, 2) if columns else x.to(dtype) for x in (k, v))
        mixed = _BiWKV.apply(w.to(dtype), u.to(dtype), keys.flatten(1, 2), values.flatten(1, 2), chosen == "robust")
        mixed = mixed.view(keys.shape)
        return (mixed.transpose(1, 2) if columns else mixed).to(v.dtype)


def choose_backend(k: Tensor, backend: str = "auto") -> str:
    """Return the backend that will compute Bi-WKV for keys like ``k``; an unavailable one is an error.

    ``MEDRESTORE_BIWKV`` in the environment names the backend where the caller asks for ``auto``.
    """
    if backend == "auto":
        backend = os.environ.get("MEDRESTORE_BIWKV", "auto")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}.")
    fits = k.device.type == "cpu" and k.dtype in (torch.float32, torch.bfloat16)
    if backend == "auto":
        return "cpu" if fits and biwkv_cpu.is_available() else "torch"
    if backend == "cpu" and not biwkv_cpu.is_available():
        raise RuntimeError(f"the Bi-WKV backend 'cpu' is not available: {biwkv_cpu.unavailable_reason()}.")
    if backend == "cpu" and not fits:
        raise RuntimeError(f"the Bi-WKV backend 'cpu' takes float32 or bfloat16 on a CPU, got {k.dtype} on {k.device}.")
    return backend


def _is_safe(w: Tensor, u: Tensor, tokens: int) -> bool:
    """Tell whether sums in linear space hold for this decay and bonus."""
    largest = torch.stack([w.detach().abs().max() * tokens, u.detach().abs().max()]).max()
    return bool(largest <= _SAFE_EXPONENT)


class _BiWKV(torch.autograd.Function):
    """Keeps its inputs only: the backward pass computes the sums again."""

    @staticmethod
    def forward(ctx: FunctionCtx, w: Tensor, u: Tensor, k: Tensor, v: Tensor, robust: bool) -> Tensor:
        ctx.save_for_backward(w, u, k, v)
        ctx.robust = robust or not _is_safe(w, u, k.shape[1])
        return (robust_forward if ctx.robust else _forward)(w, u, k, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
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
    before, after = _decayed_sums(w, x)
    mixed = before.add_(after).addcmul_(u.exp()[:, None, None, None], x)
    numerator, denominator = _unpack(mixed, k)
    return numerator / denominator


def _backward(w: Tensor, u: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    e = torch.exp(k - k.amax(dim=1, keepdim=True))
    bonus = u.exp()[:, None, None, None]
    x = _pack(e * v, e)
    before, after = _decayed_sums(w, x)
    numerator, denominator = _unpack(torch.addcmul(before + after, bonus, x), k)
    y = numerator / denominator
    g = grad / denominator

    z = _pack(g, g * y)
    g_before, g_after = _decayed_sums(w, z)
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


def _decayed_sums(w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Sum what comes before and after every token, decayed by ``exp(-w)`` for every token between.

    Args:
        w: decay per token, shape ``(C,)``.
        x: what is summed, shape ``(C, L, N, M)``: token ``n * L + l`` at ``[:, l, n]``.

    Returns:
        Sums over earlier and over later tokens, each of ``x``'s shape.
    """
    _, length, chunks, _ = x.shape
    # powers of the decay are taken in float64: a rounded exp(-w) would be wrong in the third digit after 2^18 tokens
    wide = w.double()
    position = torch.arange(length, device=x.device)
    steps = position[:, None] - position - 1  # (L, L): tokens between
    decay = torch.exp(-wide[:, None, None] * steps.clamp(min=0)).masked_fill(steps < 0, 0).to(x.dtype)
    flat = x.flatten(2)
    before, after = (torch.bmm(matrix, flat).view_as(x) for matrix in (decay, decay.mT))
    if chunks > 1:
        fading = torch.exp(-wide[:, None] * position).to(x.dtype)  # (C, L): from the chunk's first token
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
    sums = _decayed_sums(w, x.contiguous())[int(reverse)]
    return sums.transpose(1, 2).flatten(1, 2)[:, :chunks]
