"""Bi-WKV on CUDA devices by Triton kernels, forward and backward; Triton comes with PyTorch's CUDA builds on Linux.

Three kernels a scan: the totals of all chunks, what chunks hand on to each other, the result; the backward pass runs
three again. No sums by atomic operations: the same input gives the same bits. Rows and columns are read as they lie.
The operators are ``torch.ops.medrestore.biwkv2d_triton`` (with gradients) and ``..._backward``.

The kernels' sums hold for moderate decays only (:func:`is_safe`); others go the slow way in float64. Looking at the
decays makes the host wait for the device, so the answer is kept until the tensor is written to: a network that passes
its parameters waits once for each, and in training once for each and step; a quotient made anew waits once a call,
never in the backward pass. A write that PyTorch does not count (through ``.data``) cannot give a wrong result unseen:
beyond the limits the kernels return not-a-number.

With ``TRITON_INTERPRET=1`` in the environment before the first use, the kernels run on the CPU, for tests.
"""

import importlib.util
import os

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from medrestore_monai.ops.biwkv.robust import robust_backward, robust_forward

_INSTALLED = importlib.util.find_spec("triton") is not None
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_EXPONENT = 30.0  # exp(30) squared is still far from float32's largest number
_TILE = 2048  # tokens times channels of a program
_LENGTH = 256  # most tokens of a chunk
_COUNT = 1024  # most chunks at a time when they hand on
# tokens that a thread walks: few where it must keep much, in the backward pass
_STEPS, _BACKWARD_STEPS = 16, 8
_seen = WeakTensorKeyDictionary()


def refusal(k: Tensor) -> str:
    """Say why keys like these cannot be taken; empty where they can."""
    if not _INSTALLED:
        return "Triton is not installed."
    if k.dtype not in _DTYPES or not (k.device.type == "cuda" or _interpreted()):
        return f"it takes float32, bfloat16 or float16 on a CUDA device, got {k.dtype} on {k.device}."
    return ""


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def is_safe(decay: Tensor, first: Tensor, tokens: int, divisor: float = 1.0) -> bool:
    """Whether the kernels are exact for ``w = decay / divisor`` and ``u = first / divisor``.

    They are for ``|w| * tokens <= 30`` and ``|u| <= 30``: float32 then holds all sums and products.
    """
    return _largest(decay) / divisor * tokens <= _EXPONENT and _largest(first) / divisor <= _EXPONENT


def _largest(x: Tensor) -> float:
    """Return the largest absolute value, remembered until ``x`` is written to."""
    if x.is_inference():  # such tensors do not count writes
        return float(x.abs().max())
    state = (x._version, x.data_ptr())
    seen = _seen.get(x)
    if seen is None or seen[0] != state:
        seen = _seen[x] = (state, float(x.detach().abs().max()))
    return seen[1]


def _chunk(channels: int) -> tuple[int, int]:
    """Return the channels of a program and the tokens of a chunk."""
    width = min(16, _power_of_two(int(channels)))
    return width, min(_TILE // width, _LENGTH)


class _Launch:
    """Sizes of one call: how the sequence is cut and what all kernels take."""

    def __init__(self, k: Tensor, columns: bool, divisor: float, steps: int = _STEPS) -> None:
        self.batch, height, width, self.channels = k.shape
        tokens = height * width
        self.width, self.length = _chunk(self.channels)
        self.chunks = -(-tokens // self.length)
        segments = self.length // steps
        self.cut: dict[str, float] = {
            "divisor": divisor,
            "images": self.batch,
            "chunks": self.chunks,
            "tokens": tokens,
            "channels": self.channels,
        }
        image: dict[str, float] = {"height": height, "width": width, "COLUMNS": columns, "WIDTH": self.width}
        self.last = min(self.length, tokens) - 1
        self.whole = {**self.cut, **image, "last": self.last, "LENGTH": self.length, "num_warps": 4}
        warps = max(1, segments * self.width // 32)  # a thread for each segment and channel
        self.walk = {**self.cut, **image, "SEGMENTS": segments, "STEPS": steps, "num_warps": warps}
        self.grid = (self.batch * self.chunks * -(-self.channels // self.width),)

    def states(self, like: Tensor, number: int) -> Tensor:
        """Return memory for numbers of each chunk and channel."""
        return like.new_empty((number, self.batch, self.chunks, self.channels), dtype=torch.float32)

    def carry(self, decay: Tensor, top: Tensor | None, totals: Tensor, highest: Tensor | None) -> Tensor:
        """Return what every chunk gets from the others."""
        from medrestore_monai.ops.biwkv.triton_kernels import carry_kernel

        carried, width = torch.empty_like(totals), min(4, self.width)
        count = min(_COUNT, max(16, _power_of_two(self.chunks)))
        grid = (self.batch * -(-self.channels // width), 2)
        sizes = {**self.cut, "last": self.last, "COUNT": count, "WIDTH": width, "num_warps": 8}
        carry_kernel[grid](decay, top, totals, highest, carried, **sizes)
        return carried


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


@torch.library.custom_op("medrestore::biwkv2d_triton", mutates_args=())
def _forward(
    decay: Tensor, first: Tensor, k: Tensor, v: Tensor, r: Tensor | None, columns: bool, scan: int, divisor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the result, what chunks hand on, and the largest keys; for ``w = decay[scan] / divisor``, ``u`` alike."""
    from medrestore_monai.ops.biwkv.triton_kernels import mix_kernel, totals_kernel

    launch = _Launch(k, columns, divisor)
    highest = k.new_empty((k.shape[0], k.shape[3]), dtype=torch.float32)
    if not is_safe(decay, first, k.shape[1] * k.shape[2], divisor):
        w, u = decay[scan] / divisor, first[scan] / divisor
        return _robust_forward(w, u, k, v, r, columns), launch.states(k, 4), highest
    w, u, k, v = decay[scan].contiguous(), first[scan].contiguous(), k.contiguous(), v.contiguous()
    r = None if r is None else r.contiguous()
    y, top, totals = torch.empty_like(v), launch.states(k, 1), launch.states(k, 4)
    with torch.cuda.device_of(k):
        totals_kernel[launch.grid](w, k, v, top, totals, **launch.whole)
        carried = launch.carry(w, top, totals, highest)
        mix_kernel[launch.grid](w, u, k, v, r, highest, carried, y, **launch.walk)
    return y, carried, highest


@_forward.register_fake
def _(
    decay: Tensor, first: Tensor, k: Tensor, v: Tensor, r: Tensor | None, columns: bool, scan: int, divisor: float
) -> tuple[Tensor, Tensor, Tensor]:
    batch, height, width, channels = k.shape
    length = _chunk(channels)[1]
    chunks = (height * width + length - 1) // length
    carried = k.new_empty((4, batch, chunks, channels), dtype=torch.float32)
    return v.new_empty(v.shape), carried, k.new_empty((batch, channels), dtype=torch.float32)


@torch.library.custom_op("medrestore::biwkv2d_triton_backward", mutates_args=())
def _backward(
    grad: Tensor,
    decay: Tensor,
    first: Tensor,
    k: Tensor,
    v: Tensor,
    r: Tensor | None,
    carried: Tensor,
    highest: Tensor,
    columns: bool,
    scan: int,
    divisor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of ``decay``, ``first``, ``k``, ``v`` and ``r``; the last is empty where ``r`` is None."""
    from medrestore_monai.ops.biwkv.triton_kernels import gradient_kernel

    if not is_safe(decay, first, k.shape[1] * k.shape[2], divisor):
        w, u = decay[scan] / divisor, first[scan] / divisor
        grad_w, grad_u, *rest = _robust_backward(w, u, k, v, r, grad, columns)
    else:
        launch = _Launch(k, columns, divisor, _BACKWARD_STEPS)
        w, u, k, v, grad = (x.contiguous() for x in (decay[scan], first[scan], k, v, grad))
        r = None if r is None else r.contiguous()
        totals, partial = launch.states(k, 4), launch.states(k, 2)
        rest = [torch.empty_like(k), torch.empty_like(v), k.new_empty(0) if r is None else torch.empty_like(r)]
        with torch.cuda.device_of(k):
            for handed in (None, totals):
                if handed is not None:
                    handed = launch.carry(w, None, totals, None)
                gradient_kernel[launch.grid](
                    w, u, k, v, r, grad, highest, carried, totals, handed, partial, *rest, **launch.walk
                )
        grad_w, grad_u = partial.sum(dim=(1, 2), dtype=torch.float64)
    grads = torch.zeros((2, *decay.shape), dtype=torch.float64, device=k.device)
    grads[0, scan], grads[1, scan] = grad_w / divisor, grad_u / divisor
    return grads[0].to(decay.dtype), grads[1].to(first.dtype), rest[0], rest[1], rest[2]


@_backward.register_fake
def _(
    grad: Tensor,
    decay: Tensor,
    first: Tensor,
    k: Tensor,
    v: Tensor,
    r: Tensor | None,
    carried: Tensor,
    highest: Tensor,
    columns: bool,
    scan: int,
    divisor: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    gate = k.new_empty(0) if r is None else r.new_empty(r.shape)
    return torch.empty_like(decay), torch.empty_like(first), k.new_empty(k.shape), v.new_empty(v.shape), gate


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.columns, ctx.scan, ctx.divisor = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _autograd(ctx, grad, *_):  # type: ignore[no-untyped-def]
    gradients = torch.ops.medrestore.biwkv2d_triton_backward(
        grad, *ctx.saved_tensors, ctx.columns, ctx.scan, ctx.divisor
    )
    gated = ctx.saved_tensors[4] is not None
    return *gradients[:4], gradients[4] if gated else None, None, None, None


_forward.register_autograd(_autograd, setup_context=_setup_context)


def _robust_forward(w: Tensor, u: Tensor, k: Tensor, v: Tensor, r: Tensor | None, columns: bool) -> Tensor:
    y = _as_image(robust_forward(w, u, *(_as_tokens(x, columns) for x in (k, v.double()))), k, columns)
    return (y if r is None else y * r.double().sigmoid()).to(v.dtype).contiguous()


def _robust_backward(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, r: Tensor | None, grad: Tensor, columns: bool
) -> list[Tensor]:
    wide = grad.double()
    grad_r = k.new_empty(0)
    if r is not None:
        gate = r.double().sigmoid()
        y = _robust_forward(w, u, k, v.double(), None, columns)
        grad_r = (wide * y * gate * (1 - gate)).to(r.dtype).contiguous()
        wide = wide * gate
    tokens = (_as_tokens(x, columns) for x in (k, v.double(), wide))
    grad_w, grad_u, grad_k, grad_v = robust_backward(w, u, *tokens)
    grad_k, grad_v = (_as_image(x, k, columns).contiguous() for x in (grad_k, grad_v))
    return [grad_w, grad_u, grad_k.to(k.dtype), grad_v.to(v.dtype), grad_r]


def _as_tokens(x: Tensor, columns: bool) -> Tensor:
    return (x.transpose(1, 2) if columns else x).flatten(1, 2)


def _as_image(x: Tensor, like: Tensor, columns: bool) -> Tensor:
    return x.view(like.transpose(1, 2).shape).transpose(1, 2) if columns else x.view(like.shape)


def re_wkv(
    decay: Tensor, first: Tensor, k: Tensor, v: Tensor, r: Tensor | None, columns: bool, divisor: float = 1.0
) -> Tensor:
    """Recurrent Bi-WKV attention, gated; as :func:`medrestore_monai.ops.re_wkv`.

    Args:
        decay: decay per token of distance of each scan, times ``divisor``, shape ``(R, C)``.
        first: bonus of a token to itself, times ``divisor``, shape ``(R, C)``.
        k: finite keys, shape ``(B, H, W, C)``, float32, bfloat16 or float16.
        v: values, shape ``(B, H, W, C)``, likewise.
        r: receptance, the gate before its sigmoid, shape ``(B, H, W, C)``; without it nothing is gated.
        columns: let the first scan follow columns instead of rows.
        divisor: the kernels divide ``decay`` and ``first`` by this: a network can pass its parameters as they are.

    Returns:
        Mixed values, shape ``(B, H, W, C)``, in the type of ``v``; differentiable in all tensors.
    """
    for scan in range(len(decay)):
        gate = r if scan == len(decay) - 1 else None
        by_column = columns != (scan % 2 == 1)
        v = torch.ops.medrestore.biwkv2d_triton(decay, first, k, v, gate, by_column, scan, divisor)[0]
    return v
