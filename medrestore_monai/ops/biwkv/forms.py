"""Bi-WKV: linear-time attention in which a token weighs every other by its key and its distance.

:func:`biwkv_reference` is the formula and the judge of every faster form; :func:`re_wkv` is what networks call, and
:func:`biwkv` and :func:`biwkv2d` are its parts. The forms behind them, equal within rounding, stand in one table:

- ``cpu``: the plain-C kernel (:mod:`medrestore_monai.ops.biwkv.cpu`), where it was built; ``auto`` compares it with
  the PyTorch form first, except on Linux on x86-64, where its tests have run;
- ``triton``: kernels for CUDA devices (:mod:`medrestore_monai.ops.biwkv.triton_form`), where Triton is installed;
  ``auto`` takes them on a device after they have agreed with the PyTorch form there, once in each process;
- ``torch``: two-sided decayed sums by chunked matrix products, pure PyTorch, any device;
- ``robust``: log-space sums in float64, for decays so large that the linear sums would leave float32. The others
  hand such calls on to it, or to a like form of their own.
"""

import os
import platform
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from medrestore_monai.notes import note
from medrestore_monai.ops.biwkv import cpu, torch_form
from medrestore_monai.ops.biwkv.check import disagreement


class _Backend(NamedTuple):
    """One form of :func:`re_wkv`, called with its first seven arguments, decay and bonus as the caller gave them."""

    re_wkv: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, bool, float], Tensor]
    refusal: Callable[[Tensor], str]  # why keys like these cannot be taken; empty where they can
    on_probation: bool = False  # "auto" takes it where it agrees with the PyTorch form


def _divided(form: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a form that takes decay and bonus per token take the divisor that makes them so."""

    def re_wkv(
        decay: Tensor, first: Tensor, k: Tensor, v: Tensor, r: Tensor | None, columns: bool, divisor: float
    ) -> Tensor:
        return form(decay / divisor, first / divisor, k, v, r, columns)

    return re_wkv


def _triton(
    decay: Tensor, first: Tensor, k: Tensor, v: Tensor, r: Tensor | None, columns: bool, divisor: float
) -> Tensor:
    from medrestore_monai.ops.biwkv import triton_form  # which registers operators, and a CPU does not need it

    return triton_form.re_wkv(decay, first, k, v, r, columns, divisor)


def _refusal_of_triton(k: Tensor) -> str:
    from medrestore_monai.ops.biwkv import triton_form

    return triton_form.refusal(k)


# where the C kernel has run its tests; elsewhere it is compared before it is used
_CPU_TESTED = sys.platform == "linux" and platform.machine() == "x86_64"

# in the order of preference: "auto" takes the first that does not refuse
_FORMS = {
    "cpu": _Backend(_divided(cpu.re_wkv), cpu.refusal, on_probation=not _CPU_TESTED),
    "triton": _Backend(_triton, _refusal_of_triton, on_probation=True),
    "torch": _Backend(_divided(torch_form.re_wkv), lambda k: ""),
    "robust": _Backend(_divided(partial(torch_form.re_wkv, robust=True)), lambda k: ""),
}
BACKENDS = ("auto", *_FORMS)
# by form and device, how it differs from the PyTorch form there; empty where they agree
_verdicts: dict[tuple[str, str], str] = {}


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
    return re_wkv(w[None], u[None], k, v, None, columns, backend=backend)


def re_wkv(
    decay: Tensor,
    first: Tensor,
    k: Tensor,
    v: Tensor,
    r: Tensor | None = None,
    columns: bool = False,
    divisor: float = 1.0,
    backend: str = "auto",
) -> Tensor:
    """Recurrent Bi-WKV attention over the pixels of an image, gated: ``sigmoid(r) * scan(... scan(v))``.

    Scans follow rows and columns in turn; all share the keys, and the result of one is the value of the next.

    Args:
        decay: decay of each scan, ``divisor`` times what it is per token of distance, any sign, shape ``(R, C)``,
            ``R >= 1``.
        first: bonus of a token to itself, times ``divisor``, shape ``(R, C)``.
        k: finite keys, shape ``(B, H, W, C)``.
        v: values, shape ``(B, H, W, C)``.
        r: receptance, the gate before its sigmoid, shape ``(B, H, W, C)``; without it nothing is gated.
        columns: let the first scan follow columns instead of rows.
        divisor: the number of tokens ``H * W`` in Restore-RWKV, so that what is learned holds for images of any size.
            Given here and not divided by before, parameters stay the tensors they are: a GPU looks at them once.
        backend: see :func:`biwkv`.

    Returns:
        Mixed values, shape ``(B, H, W, C)``; errors as in :func:`biwkv`.

    References:
        Yang et al., Restore-RWKV, https://arxiv.org/abs/2407.11087, section 3.3
    """
    if k.ndim != 4 or k.shape != v.shape or k.numel() == 0:
        raise ValueError(f"keys and values must have one non-empty shape, got {tuple(k.shape)} and {tuple(v.shape)}.")
    if decay.ndim != 2 or decay.shape != first.shape or decay.shape[1] != k.shape[3] or len(decay) == 0:
        raise ValueError(
            f"decay and bonus must have shape (scans, {k.shape[3]}), got {tuple(decay.shape)} and {tuple(first.shape)}."
        )
    if r is not None and r.shape != k.shape:
        raise ValueError(f"the receptance must have the keys' shape {tuple(k.shape)}, got {tuple(r.shape)}.")
    form = _FORMS[choose_backend(k, backend)]
    with torch.autocast(k.device.type, enabled=False):
        return form.re_wkv(decay, first, k, v, r, columns, divisor)


def choose_backend(k: Tensor, backend: str = "auto") -> str:
    """Return the backend that will compute Bi-WKV for keys like ``k``; an unavailable one is an error.

    ``MEDRESTORE_BIWKV`` in the environment names the backend where the caller asks for ``auto``.
    """
    if backend == "auto":
        backend = os.environ.get("MEDRESTORE_BIWKV", "auto")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}.")
    if backend == "auto":
        return next(name for name, form in _FORMS.items() if not form.refusal(k) and not flaw(name, k.device))
    if reason := _FORMS[backend].refusal(k):
        raise RuntimeError(f"the Bi-WKV backend {backend!r} is not available: {reason}")
    return backend


def flaw(backend: str, device: torch.device) -> str:
    """Say why ``auto`` does not take a backend on a device that it could run on; empty where it does.

    A kernel on probation is compared with the PyTorch form when it is first asked for, in each process and on each
    device.

    Warns:
        UserWarning: the first time, if they differ.
    """
    if not _FORMS[backend].on_probation:
        return ""
    key = (backend, str(device))
    if key not in _verdicts:
        _verdicts[key] = disagreement(_FORMS[backend].re_wkv, device)
        if _verdicts[key]:
            note(
                f"the Bi-WKV kernel {backend!r} does not agree with PyTorch on {device}, {_verdicts[key]}: PyTorch "
                "computes instead, with the same result and more slowly.",
                stacklevel=2,
            )
    return _verdicts[key]
