"""Bi-WKV against its formula in float64: values, gradients, extreme keys and decays, long sequences, autocast."""

from functools import cache

import pytest
import torch
from torch.testing import assert_close

from medrestore_monai.ops import biwkv, biwkv2d, biwkv_reference, re_wkv
from medrestore_monai.ops.biwkv import cpu as biwkv_cpu

CPU_KERNEL = pytest.param(
    "cpu", marks=pytest.mark.skipif(not biwkv_cpu.is_available(), reason="the C kernel was not built")
)
BACKENDS = ["torch", "robust", CPU_KERNEL]


def random_inputs(batch, length, channels, key_std=1.0, decay=1.0, dtype=torch.float64):
    """Decay and bonus per token as the network gives them: a learned number over the length."""
    generator = torch.Generator().manual_seed(length)
    shape = (batch, length, channels)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    tensors = normal(channels) * decay / length, normal(channels) / length, normal(*shape) * key_std, normal(*shape)
    return [x.to(dtype).requires_grad_() for x in tensors]


def value_and_gradients(function, inputs, **options):
    result = function(*inputs, **options)
    seed = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [result, *torch.autograd.grad(result, inputs, seed.to(result.dtype))]


def relative_error(actual, expected):
    return ((actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


@cache
def by_formula(length, key_std):
    """Inputs, and what the formula makes of them: the same for every backend."""
    exact = random_inputs(2, length, 5, key_std)
    return exact, value_and_gradients(biwkv_reference, exact)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [1, 2, 7, 32, 33, 64, 100, 1025])  # not only powers of two
@pytest.mark.parametrize("key_std", [1, 10])
def test_matches_reference(backend, length, key_std):
    exact, expected = by_formula(length, key_std)
    dtype = torch.float32 if backend == "cpu" else torch.float64
    actual = value_and_gradients(biwkv, [x.detach().to(dtype).requires_grad_() for x in exact], backend=backend)
    tolerance = 3e-5 if dtype == torch.float32 else 1e-10
    for got, want in zip(actual, expected, strict=True):
        assert_close(got.double(), want, rtol=tolerance, atol=tolerance * max(1, want.abs().max().item()))


@pytest.mark.parametrize("backend", ["auto", "torch", "robust"])
@pytest.mark.parametrize("decay", [0, 3, -3, 30, 200, -200, 5000])
def test_any_decay_in_float32(backend, decay):
    exact = random_inputs(1, 257, 4, key_std=10)
    exact[0] = torch.linspace(0.5, 1, 4, dtype=torch.float64).mul(decay / 257).requires_grad_()
    expected = value_and_gradients(biwkv_reference, exact)
    actual = value_and_gradients(biwkv, [x.detach().float().requires_grad_() for x in exact], backend=backend)
    for got, want in zip(actual, expected, strict=True):
        assert torch.isfinite(got).all()
        assert relative_error(got, want) < 1e-4 or want.abs().max() < 1e-12


@pytest.mark.parametrize("bonus", [-100, 0, 100])
def test_any_bonus(bonus):
    w, _, k, v = random_inputs(1, 33, 3)
    u = torch.full((3,), float(bonus), dtype=torch.float64, requires_grad=True)
    expected = value_and_gradients(biwkv_reference, (w, u, k, v))
    for got, want in zip(value_and_gradients(biwkv, (w, u, k, v)), expected, strict=True):
        assert_close(got, want, rtol=1e-7, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "robust"])
@pytest.mark.parametrize("length", [1, 5, 40])
def test_gradcheck(backend, length):
    assert torch.autograd.gradcheck(
        lambda *x: biwkv(*x, backend=backend), random_inputs(2, length, 2), fast_mode=length > 5
    )


def sums_in_order(w, u, k, v):
    """The formula in O(T): float64 cumulative sums, for decays small enough to be taken out of the sum."""
    t = torch.arange(k.shape[1], dtype=torch.float64)[:, None]
    e = torch.exp(k - k.amax(dim=1, keepdim=True))
    totals = []
    for x in (e * v, e):
        rising, falling = torch.exp(w * t), torch.exp(-w * t)
        before = (x * rising).cumsum(1) - x * rising
        after = (x * falling).flip(1).cumsum(1).flip(1) - x * falling
        totals.append(torch.exp(w) * (before * falling + after * rising) + u.exp() * x)
    return totals[0] / totals[1]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", CPU_KERNEL])
def test_long_sequence_is_exact(backend):
    """Rounding must not pile up over 2^18 tokens: 1e-5 of the largest value."""
    exact = [x.detach() for x in random_inputs(1, 2**18, 3)]
    assert relative_error(biwkv(*(x.float() for x in exact), backend=backend), sums_in_order(*exact)) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("columns", [False, True])
def test_images_are_scanned_by_rows_or_columns(backend, columns):
    w, u, k, v = (x.detach().float() for x in random_inputs(2, 35, 3))
    k, v = k.view(2, 5, 7, 3), v.view(2, 5, 7, 3)
    tokens = [(x.transpose(1, 2) if columns else x).reshape(2, 35, 3).double() for x in (k, v)]
    expected = biwkv_reference(w.double(), u.double(), *tokens)
    expected = expected.view(2, 7, 5, 3).transpose(1, 2) if columns else expected.view(2, 5, 7, 3)
    assert_close(biwkv2d(w, u, k, v, columns, backend=backend).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["torch", CPU_KERNEL])
def test_autocast_computes_in_float32(backend):
    inputs = [x.detach().float().requires_grad_() for x in random_inputs(1, 50, 4)]
    expected = value_and_gradients(biwkv, inputs, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = value_and_gradients(biwkv, inputs, backend=backend)
    for got, want in zip(actual, expected, strict=True):
        assert_close(got, want, rtol=0, atol=0)


def test_keeps_the_type_of_the_values():
    w, u, k, v = (x.detach() for x in random_inputs(1, 20, 4))
    expected = biwkv_reference(w, u, k.bfloat16().double(), v.bfloat16().double())
    actual = biwkv(w.float(), u.float(), k.bfloat16(), v.bfloat16())
    assert actual.dtype == torch.bfloat16
    assert_close(actual.double(), expected, rtol=1e-2, atol=1e-2)


def test_refuses_wrong_shapes_and_names(monkeypatch):
    w, u, k, v = (x.detach() for x in random_inputs(1, 4, 3))
    with pytest.raises(ValueError, match="one non-empty shape"):
        biwkv(w, u, k, v[:, :2])
    with pytest.raises(ValueError, match=r"shape \(scans, 3\)"):
        biwkv(w[:2], u, k, v)
    with pytest.raises(ValueError, match="backend must be one of"):
        biwkv(w, u, k, v, backend="fpga")
    monkeypatch.setattr(biwkv_cpu, "is_available", lambda: True)
    with pytest.raises(RuntimeError, match="'cpu' takes float32"):
        biwkv(w, u, k, v, backend="cpu")
    monkeypatch.setattr(biwkv_cpu, "is_available", lambda: False)
    monkeypatch.setattr(biwkv_cpu, "unavailable_reason", lambda: "it was not built")
    with pytest.raises(RuntimeError, match="it was not built"):
        biwkv(w.float(), u.float(), k.float(), v.float(), backend="cpu")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_divisor_is_the_same_as_dividing_before(backend):
    torch.manual_seed(0)
    k, v, r = (torch.randn(1, 5, 7, 3) for _ in range(3))
    decay, first = torch.randn(2, 2, 3)
    expected = re_wkv(decay / 35, first / 35, k, v, r, backend=backend)
    assert_close(re_wkv(decay, first, k, v, r, divisor=35, backend=backend), expected, atol=0, rtol=0)
