"""The Triton kernels of Bi-WKV in Triton's interpreter, on the CPU; run by ``test_triton.py`` as a process.

The interpreter takes about a second for a kernel: sizes are small, and chunks are made smaller still.
"""

import pytest
import torch

from medrestore_monai.ops.biwkv import biwkv2d, biwkv_reference, re_wkv
from medrestore_monai.ops.biwkv import triton_form as biwkv_triton
from medrestore_monai.ops.biwkv.check import disagreement


def tokens(x, columns):
    """``(B, H, W, C)`` as the sequence ``(B, T, C)`` that is scanned."""
    return (x.transpose(1, 2) if columns else x).flatten(1, 2)


def inputs(shape, key_std=1.0, decay=1.0, scans=1, gated=False):
    _, height, width, channels = shape
    w = torch.randn(scans, channels) * decay / (height * width)
    tensors = [w, torch.randn(scans, channels), torch.randn(shape) * key_std, torch.randn(shape)]
    return tensors + [torch.randn(shape)] * gated


def reference(w, u, k, v, r=None, columns=False):
    """The formula, scan after scan, gated."""
    for scan, (decay, bonus) in enumerate(zip(w, u, strict=True)):
        turned = columns != (scan % 2 == 1)
        mixed = biwkv_reference(decay, bonus, tokens(k, turned), tokens(v, turned))
        v = mixed.view(tokens_shape(k, turned)).transpose(1, 2) if turned else mixed.view(k.shape)
    return v if r is None else v * r.sigmoid()


def tokens_shape(k, turned):
    return k.transpose(1, 2).shape if turned else k.shape


def value_and_gradients(function, arguments, seed, **options):
    leaves = [x.detach().clone().requires_grad_() for x in arguments]
    y = function(*leaves, **options)
    return y.detach(), *torch.autograd.grad(y, leaves, seed.to(y.dtype))


def kernels(w, u, k, v, r=None, columns=False):
    return re_wkv(w, u, k, v, r, columns, backend="triton")


def compare(arguments, columns=False, rtol=3e-6, gradient_rtol=2e-5):
    seed = torch.randn(arguments[3].shape)
    actual = value_and_gradients(kernels, arguments, seed, columns=columns)
    expected = value_and_gradients(reference, [x.double() for x in arguments], seed.double(), columns=columns)
    for number, (got, want) in enumerate(zip(actual, expected, strict=True)):
        tolerance = gradient_rtol if number else rtol
        # a gradient may cancel to nothing: then against the size of its terms
        assert (got.double() - want).abs().max() <= tolerance * max(want.abs().max().item(), 1e-2)


@pytest.mark.parametrize(
    ("shape", "columns", "key_std", "gated"),
    [
        ((1, 1, 1, 1), False, 1, True),
        ((2, 5, 7, 3), False, 10, False),
        ((2, 5, 7, 3), True, 1, True),
        ((1, 1, 37, 17), False, 1, False),
    ],
)
def test_matches_reference(shape, columns, key_std, gated):
    compare(inputs(shape, key_std, gated=gated), columns)


@pytest.mark.parametrize(("columns", "key_std"), [(False, 10), (True, 1)])
def test_chunks_hand_on_to_each_other(monkeypatch, columns, key_std):
    """Chunks that end within a line, the last one cut short, and more of them than are taken at a time."""
    monkeypatch.setattr(biwkv_triton, "_LENGTH", 32)
    monkeypatch.setattr(biwkv_triton, "_COUNT", 4)
    # wide keys: gradients are small differences of numbers some hundred times larger
    compare(inputs((1, 11, 17, 3), key_std, decay=5), columns, gradient_rtol=5e-4 if key_std > 1 else 2e-5)


def test_two_scans_and_a_gate():
    compare(inputs((1, 3, 6, 2), scans=2, gated=True))


@pytest.mark.parametrize(("w", "u"), [(29.0, -29.0), (-29.0, 29.0)])
def test_holds_up_to_its_limit(w, u):
    shape = (1, 1, 9, 2)
    # the gradient of the decay sums terms that are exp(29) times larger than it where tokens far apart dominate
    arguments = [torch.full((1, 2), w / 9), torch.full((1, 2), u), torch.randn(shape) * 3, torch.randn(shape)]
    assert biwkv_triton.is_safe(*arguments[:2], 9)
    compare(arguments, rtol=2e-5, gradient_rtol=2e-4)


@pytest.mark.parametrize(("w", "u"), [(200.0, 0.0), (-5000.0, 3.0), (1.0, -80.0)])
@pytest.mark.parametrize("columns", [False, True])
def test_beyond_its_limit_goes_the_slow_way(w, u, columns):
    shape = (2, 3, 4, 2)
    arguments = [torch.full((1, 2), w / 12), torch.full((1, 2), u), torch.randn(shape), torch.randn(shape)]
    compare([*arguments, torch.randn(shape)], columns)


def test_a_write_it_cannot_see_gives_no_number():
    w, u, k, v = inputs((1, 2, 3, 2))
    assert kernels(w, u, k, v).isfinite().all()
    w.data[:, 0] = 1000
    y = kernels(w, u, k, v)
    assert y[..., 0].isnan().all()
    assert y[..., 1].isfinite().all()
    w.mul_(1)  # PyTorch counts this one
    assert kernels(w, u, k, v).isfinite().all()


def test_looks_at_decays_once(monkeypatch):
    looked = []
    absolute = torch.Tensor.abs
    monkeypatch.setattr(torch.Tensor, "abs", lambda x: looked.append(x) or absolute(x))
    w, u, _, _ = inputs((1, 4, 5, 2))
    assert biwkv_triton.is_safe(w, u, 20)
    assert biwkv_triton.is_safe(w, u, 20)
    assert len(looked) == 2
    with torch.no_grad():
        w[0, 0] = 2
    assert not biwkv_triton.is_safe(w, u, 20)
    assert biwkv_triton.is_safe(w, u, 20, divisor=20)


@pytest.mark.parametrize(("dtype", "step"), [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)])
def test_half_precision_differs_by_its_rounding_only(dtype, step):
    w, u, *rest = inputs((1, 4, 9, 3), gated=True)
    rest = [x.to(dtype) for x in rest]
    seed = torch.randn(rest[0].shape).to(dtype)
    half = value_and_gradients(kernels, [w, u, *rest], seed)
    full = value_and_gradients(kernels, [w, u, *(x.float() for x in rest)], seed.float())
    assert [x.dtype for x in half] == [dtype, torch.float32, torch.float32, dtype, dtype, dtype]
    for got, want in zip(half, full, strict=True):
        # on a device to the nearest, half of this; the interpreter cuts bfloat16 off. fp16 has wider steps near zero
        assert ((got.float() - want).abs() <= 2.02 * step * want.abs() + 1e-7).all()


def test_keys_and_values_may_differ_in_type_and_layout():
    w, u, k, v = inputs((1, 4, 6, 3))
    k = k.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3)
    y = kernels(w, u, k.bfloat16(), v)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, reference(w, u, k.bfloat16().float(), v), rtol=1e-5, atol=1e-6)


def test_same_bits_twice():
    arguments = inputs((1, 9, 33, 2), gated=True)
    seed = torch.randn(arguments[3].shape)
    first, second = (value_and_gradients(kernels, arguments, seed) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def sums_in_order(w, u, k, v):
    """The formula for ``(T, C)`` in O(T): float64 cumulative sums, for decays that can be taken out of the sum."""
    t = torch.arange(len(k), dtype=torch.float64)[:, None]
    e = torch.exp(k - k.amax(dim=0))
    totals = []
    for x in (e * v, e):
        rising, falling = x * torch.exp(w * t), x * torch.exp(-w * t)
        before = (rising.cumsum(0) - rising) * torch.exp(-w * (t - 1))
        after = (falling.flip(0).cumsum(0).flip(0) - falling) * torch.exp(w * (t + 1))
        totals.append(before + after + u.exp() * x)
    return totals[0] / totals[1]


def test_long_sequence_is_exact(monkeypatch):
    """Rounding must not pile up over 2^16 tokens; each of the 16 chunks is larger than on a device, for speed."""
    monkeypatch.setattr(biwkv_triton, "_LENGTH", 4096)
    monkeypatch.setattr(biwkv_triton, "_TILE", 4096)
    w, u, k, v = inputs((1, 256, 256, 1), decay=3)
    expected = sums_in_order(*(x.double() for x in (w[0], u[0], k.flatten(0, 2), v.flatten(0, 2))))
    y = kernels(w, u, k, v)
    assert ((y.double().flatten(0, 2) - expected).abs().max() / expected.abs().max()) < 2e-6


def test_registered_as_torch_expects():
    w, u, k, v = (x.requires_grad_() for x in inputs((1, 2, 3, 2)))
    torch.library.opcheck(
        torch.ops.medrestore.biwkv2d_triton.default,
        (w, u, k, v, None, True, 0, 1.0),
        # its further results, the states, carry no gradient: aot_dispatch cannot know
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_one_image_form_is_the_first_scan():
    w, u, k, v = inputs((1, 3, 4, 2))
    torch.testing.assert_close(biwkv2d(w[0], u[0], k, v, True, backend="triton"), kernels(w, u, k, v, columns=True))


def test_the_kernels_agree_with_pytorch_before_auto_takes_them():
    assert disagreement(biwkv_triton.re_wkv, torch.device("cpu")) == ""
