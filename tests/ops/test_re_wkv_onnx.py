"""Bi-WKV written in operators of ONNX is the formula, for every size, by PyTorch's own means and run by onnxruntime."""

import pytest
import torch

from medrestore_monai.ops import biwkv_reference
from medrestore_monai.ops.re_wkv_onnx import CHUNK, register
from medrestore_monai.ops.re_wkv_planes import re_wkv_planes

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

CHANNELS = 3


class Scans(torch.nn.Module):
    def forward(self, decay, bonus, k, v):
        return re_wkv_planes(decay, bonus, k, v)


@pytest.fixture(scope="module")
def session():
    """The operator alone, exported without a table of translations, as MONAI's ``onnx_export`` does it."""
    register()
    register()  # twice does no harm
    example = (*torch.randn(2, 3, CHANNELS), *torch.randn(2, 2, CHANNELS, 5, 7))
    free = {0: "batch", 2: "height", 3: "width"}
    program = torch.onnx.export(
        Scans().eval(), example, dynamo=True, opset_version=20, dynamic_shapes=(None, None, free, free), verbose=False
    )
    return onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])


def reference(decay, bonus, k, v):
    """Rows, columns, rows by the quadratic formula in float64."""
    decay, bonus, k, v = (x.double() for x in (decay, bonus, k, v))
    height, width = k.shape[2:]
    for scan in range(len(decay)):
        lines, order = ((width, height), (0, 3, 2, 1)) if scan % 2 else ((height, width), (0, 2, 3, 1))
        keys, values = (x.permute(order).flatten(1, 2) for x in (k, v))
        mixed = biwkv_reference(decay[scan] / (height * width), bonus[scan] / (height * width), keys, values)
        mixed = mixed.unflatten(1, lines)
        v = mixed.permute(0, 3, 2, 1) if scan % 2 else mixed.permute(0, 3, 1, 2)
    return v


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (5, 7), (CHUNK, CHUNK), (33, 31), (9, 65)], ids=str)
@pytest.mark.parametrize("strength", [0.0, 1.0, 20.0])
def test_onnx_is_the_formula(session, size, strength):
    decay, bonus = strength * torch.randn(2, 3, CHANNELS).clamp(-1.5, 1.5)
    k, v = torch.randn(2, 2, CHANNELS, *size)
    inputs = {item.name: x.numpy() for item, x in zip(session.get_inputs(), (decay, bonus, 3 * k, v), strict=True)}
    actual = torch.from_numpy(session.run(None, inputs)[0])
    expected = reference(decay, bonus, 3 * k, v)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5 * float(v.abs().max()))
