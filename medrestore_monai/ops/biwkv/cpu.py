"""Re-WKV on the CPU by the compiled kernel ``csrc/biwkv.c``, an optional part of the installation.

The kernel is a shared library without Python or PyTorch in it, found beside this file and called through
:mod:`ctypes`; ctypes releases the interpreter lock, so that several callers run at once. The operators are
registered as ``torch.ops.medrestore.re_wkv`` (with gradients) and ``torch.ops.medrestore.re_wkv_backward``.

Arithmetic is float32 whatever the storage, carries between chunks of 64 tokens are float64. Where decays or bonuses are
beyond ``max|w| * T + max|u| = 60``, the kernel goes through the tokens one by one, in log space and float64: some 25
times slower, and right for any finite decay.
"""

import ctypes
import functools
import importlib.machinery
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import torch
from torch import SymInt, Tensor
from torch._ops import OpOverloadPacket

from medrestore_monai.ops.biwkv.build import NAME

_PADDING = 16  # channels of the saved states are padded to a multiple of this
_CHUNK = 64  # most tokens in a chunk
_NO_MEMORY = 1


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Return the compiled kernel, or None where it was not built or does not load."""
    # the plain name first: an older installation in place may have left a kernel whose name has a version of Python
    for suffix in sorted(importlib.machinery.EXTENSION_SUFFIXES, key=len):
        path = Path(__file__).with_name(NAME + suffix)
        if path.is_file():
            try:
                library = ctypes.CDLL(str(path))
            except OSError:
                return None
            pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
            library.biwkv_forward.argtypes = [pointer] * 8 + [size] * 4 + [number] * 5
            library.biwkv_backward.argtypes = [pointer] * 13 + [size] * 4 + [number] * 5
            library.rwkv_spatial_mix.argtypes = [pointer] * 14 + [ctypes.c_double] + [size] * 4 + [number] * 3
            library.rwkv_channel_mix.argtypes = [pointer] * 9 + [ctypes.c_double] + [size] * 5 + [number] * 3
            return library
    return None


def unavailable_reason() -> str:
    """Say why the kernel cannot be used here; empty where it can."""
    if _library() is not None:
        return ""
    return f"The compiled kernel medrestore_monai.ops.biwkv.{NAME} was not built; install with a C compiler to get it."


def is_available() -> bool:
    """Whether the compiled kernel was built and loads."""
    return _library() is not None


def refusal(k: Tensor) -> str:
    """Say why the kernel cannot take keys like these; empty where it can."""
    if k.device.type != "cpu" or k.dtype not in (torch.float32, torch.bfloat16):
        return f"'cpu' takes float32 or bfloat16 on a CPU, got {k.dtype} on {k.device}."
    return "" if is_available() else unavailable_reason()


@functools.cache
def _widest() -> int:
    """Return the widest instruction set: 0 generic, 1 AVX2, 2 AVX-512, 3 with products in bfloat16, 4 with AMX."""
    library = _library()
    return 0 if library is None else int(library.biwkv_widest())


def instruction_set() -> str:
    """Name the kernel's variant here: ``generic``, ``AVX2``, ``AVX-512``, ``AVX-512 BF16`` or ``AMX BF16``."""
    return ("generic", "AVX2", "AVX-512", "AVX-512 BF16", "AMX BF16")[_widest()]


def _call(function: str, columns: bool, decay: Tensor, first: Tensor, k: Tensor, *others: Tensor | None) -> None:
    """Call the C function with the addresses of the tensors, which are contiguous; an empty one counts as none."""
    library = _library()
    if library is None:
        raise RuntimeError(unavailable_reason())
    addresses = [None if t is None or t.numel() == 0 else t.data_ptr() for t in (decay, first, k, *others)]
    options = (len(decay), columns, k.dtype == torch.bfloat16, _widest(), torch.get_num_threads())
    if getattr(library, function)(*addresses, *k.shape, *options):
        raise MemoryError("The compiled Bi-WKV is out of memory.")


def call(
    function: str,
    x: Tensor,
    images: Iterable[Tensor],
    parameters: Iterable[Tensor],
    number: float,
    sizes: Iterable[int],
) -> int:
    """Call a C function that takes tensors, a number, sizes, and how to work; ``x`` says the storage.

    Args:
        function: its name.
        x: one of the images.
        images: contiguous, of one type.
        parameters: float32; copied where not contiguous.
        number: a number.
        sizes: of the images.

    Returns:
        What it returns, other than that memory is short.

    Raises:
        MemoryError: there is no room for the workspace.
        RuntimeError: the kernel was not built.
    """
    library = _library()
    if library is None:
        raise RuntimeError(unavailable_reason())
    tensors = [*images, *(p.contiguous() for p in parameters)]
    options = (x.dtype == torch.bfloat16, _widest(), torch.get_num_threads())
    result: int = getattr(library, function)(*(t.data_ptr() for t in tensors), number, *sizes, *options)
    if result == _NO_MEMORY:
        raise MemoryError("The compiled R-RWKV block is out of memory.")
    return result


def _states_size(k: Tensor, scans: int, columns: bool) -> int | SymInt:
    """Return how many floats the states of a call are: the largest keys, and 4 rows for each chunk of each scan."""
    batch, height, width, channels = k.shape
    chunks = height * ((width + _CHUNK - 1) // _CHUNK), width * ((height + _CHUNK - 1) // _CHUNK)
    of_scans = sum(chunks[(scan % 2 == 1) != columns] for scan in range(scans))
    return batch * (1 + 4 * of_scans) * ((channels + _PADDING - 1) // _PADDING * _PADDING)


def _kept(decay: Tensor, k: Tensor, columns: bool, keep: bool) -> tuple[Tensor, Tensor]:
    """Make room for what the backward pass needs: results of all scans but the last, and states."""
    mids = k.new_empty((len(decay) - 1 if keep else 0, *k.shape))
    # zeros: the kernel leaves the padding alone, and results must not differ from call to call
    return mids, k.new_zeros(_states_size(k, len(decay), columns), dtype=torch.float32)


def operator(name: str, mutates_args: Iterable[str] = ()) -> Callable[[Callable], OpOverloadPacket]:
    """Register a function as an operator on the CPU, as ``torch.library.custom_op`` does.

    The first call of such a one would import PyTorch's compiler, which takes two seconds and is not needed.

    Args:
        name: of the operator in ``torch.ops.medrestore``.
        mutates_args: names of the arguments that it overwrites.
    """

    def register(function: Callable) -> OpOverloadPacket:
        schema = torch.library.infer_schema(function, mutates_args=mutates_args)
        torch.library.define(f"medrestore::{name}", schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.impl(f"medrestore::{name}", "cpu", function)
        return cast(OpOverloadPacket, getattr(torch.ops.medrestore, name))

    return register


def shapes(name: str) -> Callable[[Callable], object]:
    """Register a function that makes what an operator would, without values.

    As ``torch.library.register_fake``, which would look through the files of all modules for the function's line.
    """
    return functools.partial(torch.library.impl, f"medrestore::{name}", "Meta")


@operator("re_wkv")
def _forward(
    decay: Tensor, first: Tensor, k: Tensor, v: Tensor, r: Tensor | None, columns: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    k = k.contiguous()
    y = torch.empty_like(k)
    mids, states = _kept(decay, k, columns, keep)
    gate = None if r is None else r.contiguous()
    inputs = (decay.contiguous(), first.contiguous(), k, v.contiguous(), gate)
    _call("biwkv_forward", columns, *inputs, y, mids, states)
    return y, mids, states if keep else states.new_empty(0)


@shapes("re_wkv")
def _(
    decay: Tensor, first: Tensor, k: Tensor, v: Tensor, r: Tensor | None, columns: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    mids, states = _kept(decay, k, columns, keep)
    return k.new_empty(k.shape), mids, states if keep else states.new_empty(0)


@operator("re_wkv_backward")
def _backward(
    decay: Tensor,
    first: Tensor,
    k: Tensor,
    v: Tensor,
    r: Tensor | None,
    mids: Tensor,
    states: Tensor,
    gy: Tensor,
    columns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    decay, first, k, v = (x.contiguous() for x in (decay, first, k, v))
    gate = None if r is None else r.contiguous()
    gdecay, gfirst, gk, gv = (x.new_empty(x.shape) for x in (decay, first, k, v))
    gr = k.new_empty(0 if r is None else k.shape)
    inputs = (decay, first, k, v, gate, gy.contiguous(), mids, states)
    _call("biwkv_backward", columns, *inputs, gdecay, gfirst, gk, gv, gr)
    return gdecay, gfirst, gk, gv, gr


@shapes("re_wkv_backward")
def _(
    decay: Tensor,
    first: Tensor,
    k: Tensor,
    v: Tensor,
    r: Tensor | None,
    mids: Tensor,
    states: Tensor,
    gy: Tensor,
    columns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    gr = k.new_empty(0 if r is None else k.shape)
    return decay.new_empty(decay.shape), first.new_empty(first.shape), k.new_empty(k.shape), v.new_empty(v.shape), gr


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, columns, keep = inputs
    _, mids, states = output
    ctx.save_for_backward(*tensors, mids, states)
    ctx.mark_non_differentiable(mids, states)
    ctx.columns, ctx.keep = columns, keep


def _autograd(ctx, gy, *_):  # type: ignore[no-untyped-def]
    if not ctx.keep:
        raise RuntimeError("re_wkv was called without keep: it has no gradient.")
    saved = ctx.saved_tensors
    *gradients, gr = _backward(*saved, gy, ctx.columns)
    return *gradients, None if saved[4] is None else gr, None, None


torch.library.register_autograd("medrestore::re_wkv", _autograd, setup_context=_setup_context)


def re_wkv(decay: Tensor, first: Tensor, k: Tensor, v: Tensor, r: Tensor | None, columns: bool) -> Tensor:
    """Compute :func:`medrestore_monai.ops.biwkv.re_wkv`; shapes and types are checked there.

    Keys and gate are taken in the type of the values. Nothing is transposed, whichever way the scans go.

    Raises:
        RuntimeError: the kernel was not built.
        MemoryError: there is no room for the workspace.
    """
    gate = None if r is None else r.to(v.dtype)
    inputs = (decay.float(), first.float(), k.to(v.dtype), v, gate)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    return cast(Tensor, _forward(*inputs, columns, keep)[0])
