"""The Triton kernels of Bi-WKV on a CUDA device, against the formula in float64."""

import pytest
import torch

from medrestore_monai.ops import biwkv_reference, re_wkv
from medrestore_monai.ops.biwkv import triton_form as biwkv_triton

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.skipif(not biwkv_triton._INSTALLED, reason="Triton is not installed"),
]


def tokens(x, columns):
    """``(B, H, W, C)`` as the sequence ``(B, T, C)`` that is scanned."""
    return (x.transpose(1, 2) if columns else x).flatten(1, 2)


def inputs(shape, key_std=1.0, decay=1.0, gated=False):
    _, height, width, channels = shape
    tensors = [torch.randn(1, channels) * decay / (height * width), torch.randn(1, channels)]
    tensors += [torch.randn(shape) * key_std] + [torch.randn(shape)] * (1 + gated)
    return [x.cuda() for x in tensors]


def value_and_gradients(function, arguments, seed, **options):
    leaves = [x.detach().clone().requires_grad_() for x in arguments]
    y = function(*leaves, **options)
    return y.detach(), *torch.autograd.grad(y, leaves, seed.to(y.dtype))


def kernels(w, u, k, v, r=None, columns=False):
    return re_wkv(w, u, k, v, r, columns, backend="triton")


def by_formula(formula):
    """Wrap a formula for sequences so that it takes images, scans either way, and is gated."""

    def function(w, u, k, v, r=None, columns=False):
        y = formula(w[0], u[0], tokens(k, columns), tokens(v, columns))
        y = y.view(k.transpose(1, 2).shape).transpose(1, 2) if columns else y.view(k.shape)
        return y if r is None else y * r.sigmoid()

    return function


def compare(formula, arguments, columns, rtol, gradient_rtol):
    seed = torch.randn_like(arguments[3])
    actual = value_and_gradients(kernels, arguments, seed, columns=columns)
    exact = [x.double() for x in arguments]
    expected = value_and_gradients(by_formula(formula), exact, seed.double(), columns=columns)
    for number, (got, want) in enumerate(zip(actual, expected, strict=True)):
        tolerance = gradient_rtol if number else rtol
        # a gradient may cancel to nothing: then against the size of its terms
        error = (got.double() - want).abs().max() / max(want.abs().max().item(), 1e-2)
        assert error <= tolerance, f"tensor {number}: {error:.1e}"


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (2, 5, 7, 3), (1, 1, 129, 16), (1, 127, 1, 17), (2, 13, 21, 51), (3, 33, 9, 48), (1, 24, 24, 200)],
)
@pytest.mark.parametrize(("key_std", "decay", "gated"), [(1, 1, False), (10, 0, True), (3, 10, True)])
def test_matches_reference(shape, columns, key_std, decay, gated):
    # wide keys: gradients are small differences of numbers some hundred times larger
    tolerance = 5e-4 if key_std > 1 else 3e-5
    compare(biwkv_reference, inputs(shape, key_std, decay, gated), columns, 1e-5, tolerance)


def sums_in_order(w, u, k, v):
    """The formula in O(T): float64 cumulative sums, for decays small enough to be taken out of the sum."""
    t = torch.arange(k.shape[1], dtype=torch.float64, device=k.device)[:, None]
    e = torch.exp(k - k.amax(dim=1, keepdim=True))
    totals = []
    for x in (e * v, e):
        rising, falling = x * torch.exp(w * t), x * torch.exp(-w * t)
        before = (rising.cumsum(1) - rising) * torch.exp(-w * (t - 1))
        after = (falling.flip(1).cumsum(1).flip(1) - falling) * torch.exp(w * (t + 1))
        totals.append(before + after + u.exp() * x)
    return totals[0] / totals[1]


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("shape", [(1, 512, 512, 16), (1, 1024, 1024, 3), (2, 300, 700, 48)])
def test_long_sequence_is_exact(shape, columns):
    """Rounding must not pile up over up to 2^20 tokens: 1e-5 of the largest value."""
    compare(sums_in_order, inputs(shape, decay=3), columns, 1e-5, 5e-5)


@pytest.mark.parametrize(("w", "u"), [(29.0, -29.0), (-29.0, 29.0), (29.0, 29.0), (-29.0, -29.0)])
def test_holds_up_to_its_limit(w, u):
    shape = (1, 9, 31, 16)
    arguments = [torch.full((1, 16), w / 279), torch.full((1, 16), u), torch.randn(shape) * 3, torch.randn(shape)]
    compare(biwkv_reference, [x.cuda() for x in arguments], False, 3e-5, 1e-3)


@pytest.mark.parametrize("columns", [False, True])
def test_beyond_its_limit_goes_the_slow_way(columns):
    shape = (2, 3, 40, 5)
    w, u, k, v, r = inputs(shape, gated=True)
    compare(biwkv_reference, [w * 500, u, k, v, r], columns, 1e-5, 1e-4)


@pytest.mark.parametrize(("dtype", "step"), [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)])
@pytest.mark.parametrize("columns", [False, True])
def test_half_precision_differs_by_its_rounding_only(dtype, step, columns):
    w, u, *rest = inputs((2, 40, 50, 48), gated=True)
    rest = [x.to(dtype) for x in rest]
    seed = torch.randn_like(rest[0])
    half = value_and_gradients(kernels, [w, u, *rest], seed, columns=columns)
    full = value_and_gradients(kernels, [w, u, *(x.float() for x in rest)], seed.float(), columns=columns)
    assert [x.dtype for x in half] == [dtype, torch.float32, torch.float32, dtype, dtype, dtype]
    for got, want in zip(half, full, strict=True):
        assert ((got.float() - want).abs() <= 1.02 * step * want.abs() + 1e-5 * want.abs().max()).all()


@pytest.mark.parametrize("columns", [False, True])
def test_same_bits_twice(columns):
    arguments = inputs((2, 200, 210, 48), gated=True)
    seed = torch.randn_like(arguments[3])
    first, second = (value_and_gradients(kernels, arguments, seed, columns=columns) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_more_bytes_than_32_bits_count():
    """2^31 numbers and a bit: offsets are 64 bits wide. In bfloat16, forward only, the last image against itself."""
    batch, shape = 129, (256, 256, 256)
    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip("needs 20 GiB of device memory")  # the longest sequence; smaller ones are tested anywhere
    w, u, k, v = inputs((1, *shape))
    k, v = k.bfloat16(), v.bfloat16()
    keys, values = k.expand(batch, *shape).contiguous(), v.expand(batch, *shape).contiguous()
    with torch.no_grad():
        assert torch.equal(kernels(w, u, keys, values)[-1:], kernels(w, u, k, v))


def test_is_chosen_on_a_cuda_device_and_follows_autocast():
    w, u, k, v = inputs((1, 8, 9, 4))
    with torch.autocast("cuda", dtype=torch.float16):
        assert torch.equal(re_wkv(w, u, k, v), kernels(w, u, k, v))


def test_parameters_are_looked_at_once():
    """After the first call nothing waits for the device: a wait would be an error here."""
    w, u, k, v = inputs((1, 16, 16, 16))
    leaves = [x.requires_grad_() for x in (w, u, k, v)]
    biwkv_triton.re_wkv(*leaves, None, False, 256.0).sum().backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        biwkv_triton.re_wkv(*leaves, None, False, 256.0).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
