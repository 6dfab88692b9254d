"""Bi-WKV on the CPU by the compiled kernel ``csrc/biwkv.c``, an optional part of the installation.

The kernel is a shared library without Python or PyTorch in it, found beside this file and called through
:mod:`ctypes`; ctypes releases the interpreter lock, so that several callers run at once. The operators are
registered as ``torch.ops.medrestore.biwkv2d`` (with gradients) and ``torch.ops.medrestore.biwkv2d_backward``.
"""

import ctypes
import functools
import importlib.machinery
from pathlib import Path

import torch
from torch import Tensor

_NAME = "_biwkv"
_PADDING = 16  # channels of the saved states are padded to a multiple of this
_CHUNK = 64  # most tokens in a chunk
_ERRORS = {
    1: "The compiled Bi-WKV needs max|w| * T + max|u| <= 60.",
    2: "The compiled Bi-WKV is out of memory.",
}


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Return the compiled kernel, or None where it was not built or does not load."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(_NAME + suffix)
        if path.is_file():
            try:
                library = ctypes.CDLL(str(path))
            except OSError:
                return None
            pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
            library.biwkv_forward.argtypes = [pointer] * 6 + [size] * 4 + [number] * 4
            library.biwkv_backward.argtypes = [pointer] * 10 + [size] * 4 + [number] * 4
            return library
    return None


def unavailable_reason() -> str:
    """Say why the kernel cannot be used here; empty where it can."""
    if _library() is not None:
        return ""
    return f"The compiled kernel medrestore_monai.ops.{_NAME} was not built; install with a C compiler to get it."


def is_available() -> bool:
    """Whether the compiled kernel was built and loads."""
    return _library() is not None


@functools.cache
def _widest() -> int:
    """Return the widest instruction set of this machine: 0 generic, 1 AVX2, 2 AVX-512."""
    library = _library()
    return 0 if library is None else int(library.biwkv_widest())


def instruction_set() -> str:
    """Name the variant of the kernel that runs on this machine: ``generic``, ``AVX2`` or ``AVX-512``."""
    return ("generic", "AVX2", "AVX-512")[_widest()]


def supports(w: Tensor, u: Tensor, tokens: int) -> bool:
    """Whether the kernel is exact for these decays and bonuses, ``max|w| * tokens + max|u| <= 60``.

    Args:
        w: decay per token of distance, shape ``(C,)``.
        u: bonus of a token to itself, shape ``(C,)``.
        tokens: number of tokens in the sequence.
    """
    return bool(w.detach().abs().max() * tokens + u.detach().abs().max() <= 60)


def _call(function: str, tensors: list[Tensor], columns: bool) -> None:
    """Call the C function with the tensors' addresses; ``tensors[2]`` is k and gives shape and type."""
    library = _library()
    if library is None:
        raise RuntimeError(unavailable_reason())
    k = tensors[2]
    addresses = [t.data_ptr() for t in tensors]
    error = getattr(library, function)(
        *addresses, *k.shape, columns, k.dtype == torch.bfloat16, _widest(), torch.get_num_threads()
    )
    if error:
        raise RuntimeError(_ERRORS[error])


def _state_shape(k: Tensor, columns: bool) -> tuple[int, int, int]:
    batch, height, width, channels = k.shape
    lines, length = (width, height) if columns else (1, height * width)
    rows = 4 * lines * ((length + _CHUNK - 1) // _CHUNK) + 1
    return batch, rows, (channels + _PADDING - 1) // _PADDING * _PADDING


@torch.library.custom_op("medrestore::biwkv2d", mutates_args=(), device_types="cpu")
def _forward(w: Tensor, u: Tensor, k: Tensor, v: Tensor, columns: bool) -> tuple[Tensor, Tensor]:
    w, u, k, v = w.contiguous(), u.contiguous(), k.contiguous(), v.contiguous()
    y = torch.empty_like(k)
    states = torch.empty(_state_shape(k, columns), dtype=torch.float32)
    _call("biwkv_forward", [w, u, k, v, y, states], columns)
    return y, states


@_forward.register_fake
def _(w: Tensor, u: Tensor, k: Tensor, v: Tensor, columns: bool) -> tuple[Tensor, Tensor]:
    return k.new_empty(k.shape), k.new_empty(_state_shape(k, columns), dtype=torch.float32)


@torch.library.custom_op("medrestore::biwkv2d_backward", mutates_args=(), device_types="cpu")
def _backward(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, states: Tensor, gy: Tensor, columns: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    w, u, k, v, gy = w.contiguous(), u.contiguous(), k.contiguous(), v.contiguous(), gy.contiguous()
    gw, gu, gk, gv = torch.empty_like(w), torch.empty_like(u), torch.empty_like(k), torch.empty_like(v)
    _call("biwkv_backward", [w, u, k, v, gy, states, gw, gu, gk, gv], columns)
    return gw, gu, gk, gv


@_backward.register_fake
def _(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, states: Tensor, gy: Tensor, columns: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(w), torch.empty_like(u), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    w, u, k, v, columns = inputs
    ctx.save_for_backward(w, u, k, v, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.columns = columns


def _autograd(ctx, gy, _):  # type: ignore[no-untyped-def]
    w, u, k, v, states = ctx.saved_tensors
    return *_backward(w, u, k, v, states, gy, ctx.columns), None


_forward.register_autograd(_autograd, setup_context=_setup_context)


def _check(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> None:
    if k.ndim != 4 or v.shape != k.shape or 0 in k.shape:
        raise ValueError(f"k and v must be equal, non-empty (B, H, W, C), got {tuple(k.shape)} and {tuple(v.shape)}.")
    if w.shape != k.shape[3:] or u.shape != k.shape[3:]:
        raise ValueError(f"w and u must have shape ({k.shape[3]},), got {tuple(w.shape)} and {tuple(u.shape)}.")
    if k.dtype not in (torch.float32, torch.bfloat16) or v.dtype != k.dtype:
        raise TypeError(f"k and v must both be float32 or both bfloat16, got {k.dtype} and {v.dtype}.")
    if w.dtype != torch.float32 or u.dtype != torch.float32:
        raise TypeError(f"w and u must be float32, got {w.dtype} and {u.dtype}.")
    if any(t.device.type != "cpu" for t in (w, u, k, v)):
        raise ValueError("The compiled Bi-WKV runs on the CPU; all tensors must be there.")


def biwkv2d(w: Tensor, u: Tensor, k: Tensor, v: Tensor, columns: bool = False) -> Tensor:
    """Bi-WKV attention over the pixels of an image, as :func:`biwkv_reference` defines it.

    The tokens are the ``T = H * W`` pixels, row after row, or column after column; nothing is transposed.
    Arithmetic is float32 whatever the storage, carries between chunks of 64 tokens are float64.

    Args:
        w: decay per token of distance, shape ``(C,)``, float32.
        u: bonus of a token to itself, shape ``(C,)``, float32.
        k: keys, shape ``(B, H, W, C)``, float32 or bfloat16.
        v: values, like ``k``.
        columns: scan columns (token ``t = x * H + y``) instead of rows (``t = y * W + x``).

    Returns:
        Mixed values, like ``k``; differentiable in all four inputs.

    Raises:
        ValueError: shapes do not fit or a tensor is not on the CPU.
        TypeError: another type of number.
        RuntimeError: the kernel was not built, or ``max|w| * T + max|u|`` is above 60 (see :func:`supports`).
    """
    _check(w, u, k, v)
    return _forward(w, u, k, v, columns)[0]
