"""Bi-WKV in operators of ONNX, for images of any size; needs the package onnxscript.

With ``E = exp(k - max k)`` a scan is ``L(E v) / L(E)``, where ``L`` sums over all tokens, decayed with distance. Tokens
are taken in chunks of :data:`CHUNK` along the scanned axis, each line starting a new chunk. Within a chunk ``L`` is one
small matrix for each channel; what comes from outside of a chunk is carried by two cumulative sums over the totals of
chunks. So the large tensors see matrix products only, which runtimes do fast, and none is transposed.

Exponents of pairs of pixels in the image stay below :data:`LIMIT`; those that stand for nothing are cut off there.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from medrestore_monai.ops import re_wkv_planes  # noqa: F401  registers the operator

CHUNK = 32
LIMIT = 60.0  # of |decay| + |bonus|: float32 holds exp(88)
_CUT = 80.0


def translations() -> dict[Callable, Callable]:
    """Return what ``torch.onnx.export(custom_translation_table=...)`` needs for the operators of this package."""
    return {torch.ops.medrestore.re_wkv_planes.default: onnx_re_wkv_planes}


def register() -> None:
    """Add :func:`translations` to what ``torch.onnx.export`` knows in this process, where onnxscript is installed.

    For MONAI's ``onnx_export``, which cannot hand over a table; PyTorch has no public way for it.
    """
    if find_spec("onnxscript") is None:
        return
    from torch.onnx._internal.exporter._torchlib import _torchlib_registry as registry

    known = {entry.fx_target for entry in registry.get_torchlib_ops()}
    for target, translation in translations().items():
        if target not in known:
            registry.onnx_impl(target, trace_only=True)(translation)


def onnx_re_wkv_planes(decay: Any, bonus: Any, k: Any, v: Any) -> Any:
    """Write :func:`~medrestore_monai.ops.re_wkv_planes.re_wkv_planes` in ONNX; its arguments are values of a graph."""
    from onnxscript import opset20

    op: Any = opset20  # takes plain numbers as well, which its types do not say
    height, width = op.Shape(k, start=2, end=3), op.Shape(k, start=3, end=4)
    largest = op.ReduceMax(k, [2, 3], keepdims=1)
    e = op.Exp(op.Sub(k, largest))
    for scan in range(decay.shape[0]):
        w, u = (op.Squeeze(op.Slice(x, [scan], [scan + 1], [0]), [0]) for x in (decay, bonus))
        v = (_columns if scan % 2 else _rows)(op, w, u, e, v, height, width)
    return v


def _rows(op: Any, decay: Any, bonus: Any, e: Any, v: Any, height: Any, width: Any) -> Any:
    mixing, totalling = _matrices(op, decay, bonus, op.Mul(height, width), columns=False)
    e, chunks = _padded(op, e, width, axis=3)
    v, _ = _padded(op, v, width, axis=3)
    x = [op.Reshape(y, [0, 0, -1, CHUNK]) for y in (op.Mul(e, v), e)]  # (B, C, H * chunks, CHUNK)
    totals = op.Concat(*(op.MatMul(y, totalling) for y in x), axis=0)  # (2B, C, H * chunks, 2)
    starts = _starts(op, height, width, chunks)
    carried = _carried(op, decay, op.Transpose(totals, perm=[3, 0, 1, 2]), starts)
    parts = op.Split(op.Transpose(carried, perm=[1, 2, 3, 0]), axis=0, num_outputs=2)
    sums = [op.MatMul(op.Concat(y, part, axis=3), mixing) for y, part in zip(x, parts, strict=True)]
    mixed = op.Reshape(op.Div(*sums), op.Shape(e))
    return op.Slice(mixed, [0], width, [3])


def _columns(op: Any, decay: Any, bonus: Any, e: Any, v: Any, height: Any, width: Any) -> Any:
    mixing, totalling = _matrices(op, decay, bonus, op.Mul(height, width), columns=True)
    e, chunks = _padded(op, e, height, axis=2)
    v, _ = _padded(op, v, height, axis=2)
    lines = op.Concat(op.Constant(value_ints=[0, 0, -1, CHUNK]), width, axis=0)
    x = [op.Reshape(y, lines) for y in (op.Mul(e, v), e)]  # (B, C, chunks, CHUNK, W)
    totals = op.Concat(*(op.MatMul(totalling, y) for y in x), axis=0)  # (2B, C, chunks, 2, W)
    starts = _starts(op, width, height, chunks)
    flat = op.Reshape(op.Transpose(totals, perm=[3, 0, 1, 4, 2]), [0, 0, 0, -1])
    carried = _carried(op, decay, flat, starts)  # (2, 2B, C, W * chunks)
    carried = op.Reshape(carried, op.Concat(op.Constant(value_ints=[0, 0, 0]), width, chunks, axis=0))
    parts = op.Split(op.Transpose(carried, perm=[1, 2, 4, 0, 3]), axis=0, num_outputs=2)
    sums = [op.MatMul(mixing, op.Concat(y, part, axis=3)) for y, part in zip(x, parts, strict=True)]
    mixed = op.Reshape(op.Div(*sums), op.Shape(e))
    return op.Slice(mixed, [0], height, [2])


def _matrices(op: Any, decay: Any, bonus: Any, tokens: Any, columns: bool) -> tuple[Any, Any]:
    """Return what mixes a chunk and what comes from outside, and what totals a chunk for others, for each channel."""
    position = np.arange(CHUNK)
    between = np.abs(position[:, None] - position) - 1
    own = np.eye(CHUNK)
    # the first CHUNK rows: within; then what is carried to a token from before and from after its chunk's first token
    mixing = np.vstack([np.where(own, 0, -between), 1 - position, 1 + position])
    mixing_bonus = np.vstack([own, np.zeros((2, CHUNK))])
    totalling = np.vstack([position, -position])
    shapes: list[tuple[int, ...]] = [(CHUNK + 2, CHUNK), (CHUNK, 2)]
    if columns:
        mixing, mixing_bonus = mixing.T, mixing_bonus.T
        shapes = [(1, CHUNK, CHUNK + 2), (1, 2, CHUNK)]
    else:
        totalling = totalling.T
    parameters = op.Concat(op.Unsqueeze(decay, [1]), op.Unsqueeze(bonus, [1]), axis=1)
    parameters = op.Div(parameters, op.Cast(tokens, to=1))  # (C, 2)

    def matrix(of_decay: np.ndarray, of_bonus: np.ndarray, shape: tuple[int, ...]) -> Any:
        factors = op.Constant(value=_tensor(np.stack([of_decay.ravel(), of_bonus.ravel()])))
        exponents = op.Min(op.MatMul(parameters, factors), _CUT)
        return op.Reshape(op.Exp(exponents), [-1, *shape])

    return matrix(mixing, mixing_bonus, shapes[0]), matrix(totalling, 0 * totalling, shapes[1])


def _tensor(values: np.ndarray) -> Any:
    import onnx

    return onnx.numpy_helper.from_array(values.astype(np.float32))


def _padded(op: Any, x: Any, length: Any, axis: int) -> tuple[Any, Any]:
    """Fill the last chunk of every line with zeros; return the number of chunks in a line, too."""
    chunks = op.Div(op.Add(length, [CHUNK - 1]), [CHUNK])
    missing = op.Sub(op.Mul(chunks, [CHUNK]), length)
    pads = op.Concat(op.Constant(value_ints=[0]), missing, axis=0)
    return op.Pad(x, pads, 0.0, [axis]), chunks


def _starts(op: Any, lines: Any, length: Any, chunks: Any) -> Any:
    """First token of every chunk, counted from the middle, as a part of all tokens; shape ``(lines * chunks,)``."""
    line, chunk = (op.Range(0, op.Squeeze(count), 1) for count in (lines, chunks))
    start = op.Add(op.Mul(op.Unsqueeze(line, [1]), length), op.Mul(chunk, [CHUNK]))
    part = op.Div(op.Cast(op.Reshape(start, [-1]), to=1), op.Cast(op.Mul(lines, length), to=1))
    return op.Sub(part, 0.5)


def _carried(op: Any, decay: Any, totals: Any, starts: Any) -> Any:
    """Sum the totals of earlier and of later chunks, decayed; shape ``(2, 2B, C, chunks)`` in and out."""
    exponents = op.Unsqueeze(op.Mul(op.Unsqueeze(decay, [1]), starts), [0, 1])  # (1, 1, C, chunks)
    opposite = op.Neg(exponents)
    scaled = op.Mul(totals, op.Exp(op.Concat(exponents, opposite, axis=0)))
    to_later, to_earlier = op.Split(scaled, axis=0, num_outputs=2)
    sums = (op.CumSum(to_later, 3, exclusive=1), op.CumSum(to_earlier, 3, exclusive=1, reverse=1))
    return op.Mul(op.Concat(*sums, axis=0), op.Exp(op.Concat(opposite, exponents, axis=0)))
