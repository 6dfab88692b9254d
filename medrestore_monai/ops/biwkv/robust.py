"""Bi-WKV in log space and float64: slower, and right for any finite decay, bonus and key.

A decayed sum is kept as ``exp(scale) * value``; ``scale`` is the largest exponent met so far.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from medrestore_monai.ops.precision import as_float64

# stands for "nothing summed yet": finite, so that the difference of two of them is defined
_NOTHING = -1e200


class _Sum(NamedTuple):
    scale: Tensor  # (B, T, C)
    value: Tensor  # (B, T, C, 2)


def robust_forward(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute Bi-WKV; arguments and result as in :func:`medrestore_monai.ops.biwkv.biwkv`."""
    w, u, k, values = (as_float64(x) for x in (w, u, k, v))
    total, _, _ = _mix(w, u, _Sum(k, torch.stack([values, torch.ones_like(values)], dim=-1)))
    return (total.value[..., 0] / total.value[..., 1]).to(v)


def robust_backward(w: Tensor, u: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of ``w``, ``u``, ``k`` and ``v``.

    The operator is its own transpose: the same sums, with minus the log-denominator for the keys.
    """
    like = v
    w, u, k, v, grad = (as_float64(x) for x in (w, u, k, v, grad))
    total, before, after = _mix(w, u, _Sum(k, torch.stack([v, torch.ones_like(v)], dim=-1)))
    y = total.value[..., 0] / total.value[..., 1]
    g = grad / total.value[..., 1]
    g_total, g_before, g_after = _mix(w, u, _Sum(-total.scale, torch.stack([g, g * y], dim=-1)))

    weight = torch.exp(k + g_total.scale)
    grad_v = weight * g_total.value[..., 0]
    grad_k = weight * (v * g_total.value[..., 0] - g_total.value[..., 1])
    grad_u = (torch.exp(u + k - total.scale) * g * (v - y)).sum(dim=(0, 1))
    # a pair of tokens decays once for every token between them: sum over that token
    steps = [
        (torch.exp(left.scale + right.scale - w) * _difference(left.value * right.value)).sum(dim=(0, 1))
        for left, right in ((before, g_after), (after, g_before))
    ]
    grad_w = -(steps[0] + steps[1])
    return tuple(x.to(like) for x in (grad_w, grad_u, grad_k, grad_v))


def _difference(value: Tensor) -> Tensor:
    return value[..., 0] - value[..., 1]


def _mix(w: Tensor, u: Tensor, x: _Sum) -> tuple[_Sum, _Sum, _Sum]:
    """Return the sum over all tokens, and its parts before and after each token."""
    before = _earlier(w, x)
    after = _Sum(*(part.flip(1) for part in _earlier(w, _Sum(*(part.flip(1) for part in x)))))
    return _add(_add(before, after), _Sum(x.scale + u, x.value)), before, after


def _earlier(w: Tensor, x: _Sum) -> _Sum:
    """Sum what comes before each token, decayed by ``exp(-w)`` for every token between: pairs first, then within."""
    tokens = x.scale.shape[1]
    if tokens == 1:
        return _Sum(torch.full_like(x.scale, _NOTHING), torch.zeros_like(x.value))
    even = _Sum(*(part[:, 0 : tokens - 1 : 2] for part in x))
    odd = _Sum(*(part[:, 1::2] for part in x))
    pairs = _add(_Sum(even.scale - w, even.value), odd)
    if tokens % 2:  # the last token has no partner: nobody comes after it
        last = (torch.full_like(x.scale[:, :1], _NOTHING), torch.zeros_like(x.value[:, :1]))
        pairs = _Sum(*(torch.cat(parts, dim=1) for parts in zip(pairs, last, strict=True)))
    at_even = _earlier(2 * w, pairs)
    count = tokens // 2
    at_odd = _add(_Sum(at_even.scale[:, :count] - w, at_even.value[:, :count]), even)
    sums = _Sum(torch.empty_like(x.scale), torch.empty_like(x.value))
    for whole, first, second in zip(sums, at_even, at_odd, strict=True):
        whole[:, 0::2] = first
        whole[:, 1::2] = second
    return sums


def _add(a: _Sum, b: _Sum) -> _Sum:
    scale = torch.maximum(a.scale, b.scale)
    value = a.value * torch.exp(a.scale - scale)[..., None] + b.value * torch.exp(b.scale - scale)[..., None]
    return _Sum(scale, value)
