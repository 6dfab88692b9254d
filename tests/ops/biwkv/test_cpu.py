"""The compiled Re-WKV against the formula in float64; skipped where it was not built."""

from functools import cache

import pytest
import torch
from torch.testing import assert_close

from medrestore_monai.ops import biwkv2d, biwkv_reference, re_wkv
from medrestore_monai.ops.biwkv import cpu as biwkv_cpu

pytestmark = pytest.mark.skipif(not biwkv_cpu.is_available(), reason=biwkv_cpu.unavailable_reason())


def on_cpu(decay, first, k, v, r=None, columns=False):
    return re_wkv(decay, first, k, v, r, columns, backend="cpu")


def re_wkv_reference(decay, first, k, v, r=None, columns=False, scan=biwkv_reference):
    """Scans of the formula in turn, and the gate."""
    for number, (w, u) in enumerate(zip(decay, first, strict=True)):
        turned = (number % 2 == 1) != columns
        keys, values = (x.transpose(1, 2) if turned else x for x in (k, v))
        mixed = scan(w, u, keys.flatten(1, 2), values.flatten(1, 2)).view(keys.shape)
        v = mixed.transpose(1, 2) if turned else mixed
    return v if r is None else torch.sigmoid(r) * v


def inputs(shape, scans=1, gated=False, key_std=1.0, decay=1.0):
    """Decay and bonus per token as the network gives them: a learned number over the number of tokens."""
    _, height, width, channels = shape
    generator = torch.Generator().manual_seed(height * width + channels)

    def normal(*size):
        return torch.randn(*size, generator=generator)

    parts = [normal(scans, channels) * decay / (height * width), normal(scans, channels), normal(*shape) * key_std]
    return [*parts, normal(*shape), *([2 * normal(*shape)] if gated else [])]


def relative_error(actual, expected):
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


def forward_and_gradients(function, arguments, seed, **options):
    arguments = [x.detach().clone().requires_grad_() for x in arguments]
    y = function(*arguments, **options)
    return y.detach(), *torch.autograd.grad(y, arguments, seed)


def seed_of(arguments):
    return torch.randn(arguments[2].shape, generator=torch.Generator().manual_seed(1))


def by_formula(arguments, columns):
    wide = [x.double() for x in arguments]
    return forward_and_gradients(re_wkv_reference, wide, seed_of(arguments).double(), columns=columns)


@cache
def drawn(columns, *options):
    """Inputs, and what the formula makes of them: the same for every instruction set."""
    arguments = inputs(*options)
    return arguments, by_formula(arguments, columns)


def compare(arguments, columns, expected=None, tolerance=3e-6, gradient_tolerance=2e-5):
    actual = forward_and_gradients(on_cpu, arguments, seed_of(arguments), columns=columns)
    expected = by_formula(arguments, columns) if expected is None else expected
    assert relative_error(actual[0], expected[0]) < tolerance
    for got, want in zip(actual[1:], expected[1:], strict=True):
        assert got.isfinite().all()
        # a gradient may cancel to nothing: then against the size of its terms, which is about 1
        assert (got.double() - want).abs().max() < gradient_tolerance * max(want.abs().max().item(), 5e-2)


SHAPES = [(2, 1, 1, 20), (1, 1, 2, 1), (2, 7, 5, 3), (1, 1, 65, 7), (1, 65, 1, 17), (2, 7, 13, 51), (1, 3, 70, 48)]
SHAPES += [(1, 70, 3, 20), (1, 6, 7, 200)]


@pytest.fixture(params=["generic", "AVX2", "AVX-512", "AVX-512 BF16"])
def instruction_set(request, monkeypatch):
    """Run with every variant of the kernel that this machine has; scans are the same with AMX."""
    number = ["generic", "AVX2", "AVX-512", "AVX-512 BF16"].index(request.param)
    if number > biwkv_cpu._widest():
        pytest.skip(f"{request.param} is not available on this machine")
    monkeypatch.setattr(biwkv_cpu, "_widest", lambda: number)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("key_std", "decay"), [(1, 1), (10, 0), (3, 10)])
def test_one_scan_matches_the_formula(shape, columns, key_std, decay):
    arguments, expected = drawn(columns, shape, 1, False, key_std, decay)
    compare(arguments, columns, expected)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("shape", SHAPES[2:8])
@pytest.mark.parametrize(("scans", "gated"), [(1, True), (2, True), (2, False), (3, True)])
def test_scans_and_gate_match_the_formula(shape, columns, scans, gated):
    arguments, expected = drawn(columns, shape, scans, gated)
    compare(arguments, columns, expected)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize(("decay", "bonus", "key_std"), [(500, 1, 1), (-500, 1, 10), (3e4, 80, 100), (0, -300, 1)])
def test_any_decay_bonus_and_key(columns, decay, bonus, key_std):
    """Beyond the limits of sums in linear space, in one of two scans or in both."""
    arguments = inputs((2, 7, 9, 5), 2, gated=True, key_std=key_std)
    for extreme in (slice(0, 1), slice(1, 2), slice(0, 2)):
        arguments[0][extreme] = decay / 63 * torch.linspace(0.5, 1, 5)
        arguments[1][extreme] = bonus
        compare(arguments, columns)


@pytest.mark.parametrize("columns", [False, True])
def test_one_token_returns_its_value(columns):
    w, u, k, v = inputs((2, 1, 1, 20))
    assert_close(on_cpu(w, u, k, v, columns=columns), v)


def two_sided_sums(w, x):
    """Decayed sums before and after each token of ``(T, C)`` by cumulative sums; float64, and small ``|w| T``, only."""
    t = torch.arange(len(x), dtype=torch.float64)[:, None]
    rising, falling = x * torch.exp(w * t), x * torch.exp(-w * t)
    before = (rising.cumsum(0) - rising) * torch.exp(-w * (t - 1))
    after = (falling.flip(0).cumsum(0).flip(0) - falling) * torch.exp(w * (t + 1))
    return before + after


def long_scan(w, u, k, v):
    """The formula in O(T), for one image."""
    k, v = k[0], v[0]
    e = torch.exp(k - k.max(dim=0).values)
    bonus = torch.exp(u) * e
    return ((two_sided_sums(w, e * v) + bonus * v) / (two_sided_sums(w, e) + bonus))[None]


def test_long_reference_matches_the_formula():
    arguments = [x.double() for x in inputs((1, 10, 12, 4), 2, gated=True, decay=5)]
    assert_close(re_wkv_reference(*arguments, scan=long_scan), re_wkv_reference(*arguments))


@pytest.mark.slow
@pytest.mark.parametrize(("scans", "columns"), [(1, False), (1, True), (2, False)])
@pytest.mark.parametrize(("key_std", "decay"), [(1, 1), (5, 1), (1, 8)])
def test_stays_accurate_over_262144_tokens(scans, columns, key_std, decay):
    """Errors that thousands of decays would add up; they do not show in short sequences."""
    shape = (1, 512, 512, 2)
    arguments = inputs(shape, scans, scans > 1, key_std, decay)
    seed = torch.randn(shape)
    actual = forward_and_gradients(on_cpu, arguments, seed, columns=columns)
    wide = [x.double() for x in arguments]
    expected = forward_and_gradients(re_wkv_reference, wide, seed.double(), columns=columns, scan=long_scan)
    assert relative_error(actual[0], expected[0]) < 2e-6
    for got, want in zip(actual[1:], expected[1:], strict=True):
        assert relative_error(got, want) < 2e-5


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize(("scans", "columns"), [(1, False), (1, True), (2, False)])
def test_bfloat16_differs_by_its_rounding_only(scans, columns):
    w, u, *images = inputs((2, 9, 17, 20), scans, gated=True)
    images = [x.bfloat16() for x in images]
    seed = torch.randn(images[0].shape).bfloat16()
    half = forward_and_gradients(on_cpu, (w, u, *images), seed, columns=columns)
    full = forward_and_gradients(on_cpu, (w, u, *(x.float() for x in images)), seed.float(), columns=columns)
    assert [x.dtype for x in half] == [torch.bfloat16, torch.float32, torch.float32, *[torch.bfloat16] * 3]
    for got, want in zip(half, full, strict=True):
        # between two scans, and behind the gate, numbers are rounded once more
        assert (got.float() - want).abs().max() < 1e-2 * want.abs().max()
    assert scans > 1 or torch.equal(half[0], full[0].bfloat16())


@pytest.mark.usefixtures("instruction_set")
def test_bfloat16_rounds_ties_to_even():
    """Two equal weights: the mean of neighboring bfloat16 numbers lies half way between them."""
    step = 2.0**-7
    v = torch.tensor([[1.0, 1 + step], [1 + step, 1 + 2 * step]]).T.reshape(1, 1, 2, 2).bfloat16()
    zero = torch.zeros(1, 2)
    assert on_cpu(zero, zero, torch.zeros_like(v), v)[0, 0, 0].tolist() == [1.0, 1 + 2 * step]


@pytest.mark.parametrize("columns", [False, True])
def test_number_of_threads_changes_nothing(columns):
    shape = (2, 96, 80, 48)
    arguments, seed = inputs(shape, 2, gated=True), torch.randn(shape)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = forward_and_gradients(on_cpu, arguments, seed, columns=columns)
        torch.set_num_threads(5)
        many = forward_and_gradients(on_cpu, arguments, seed, columns=columns)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))


@pytest.mark.slow
def test_results_large_enough_to_pass_the_caches():
    """Beyond 16 MiB the kernel writes past the caches; the first image must not notice the others."""
    arguments = inputs((3, 150, 200, 48), 2, gated=True)
    seed = torch.randn(arguments[2].shape)
    assert seed.nbytes > 16 << 20
    together = forward_and_gradients(on_cpu, arguments, seed)
    alone = forward_and_gradients(on_cpu, [*arguments[:2], *(x[:1] for x in arguments[2:])], seed[:1])
    for index in (0, 3, 4, 5):
        assert_close(together[index][:1], alone[index], rtol=0, atol=0)


def test_gradients_change_nothing():
    """Without gradients the result of the first scan lies where that of the second will be."""
    arguments = inputs((2, 13, 66, 20), 3, gated=True)
    expected = on_cpu(*(x.clone().requires_grad_() for x in arguments))
    with torch.no_grad():
        assert torch.equal(on_cpu(*arguments), expected)


def test_tensors_in_any_layout():
    arguments = inputs((2, 12, 20, 6), 2, gated=True)
    expected = on_cpu(*arguments)
    strided = [
        x.mT.contiguous().mT if x.ndim == 2 else x.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
        for x in arguments
    ]
    assert not any(x.is_contiguous() for x in strided)
    assert torch.equal(on_cpu(*strided), expected)
    seed = torch.randn(2, 6, 20, 12).permute(0, 3, 2, 1)
    for got, want in zip(
        forward_and_gradients(on_cpu, strided, seed),
        forward_and_gradients(on_cpu, arguments, seed.contiguous()),
        strict=True,
    ):
        assert torch.equal(got, want)


def test_columns_of_a_transposed_image_are_its_rows():
    w, u, k, v = (x[0] if x.ndim == 2 else x for x in inputs((1, 12, 20, 5)))
    columns = biwkv2d(w, u, k, v, columns=True, backend="cpu")
    rows = biwkv2d(w, u, k.transpose(1, 2), v.transpose(1, 2), backend="cpu")
    assert_close(columns, rows.transpose(1, 2), rtol=0, atol=2e-6)


@pytest.mark.parametrize("extreme", [1, 1e4])
def test_not_a_number_is_not_hidden(extreme):
    for spoiled in (2, 3, 4):
        arguments = inputs((1, 4, 5, 3), 2, gated=True, decay=extreme)
        arguments[spoiled][0, 1, 2, 1] = torch.nan
        y = on_cpu(*arguments)
        assert y[0, 1, 2, 1].isnan()
        assert y[..., 1].isnan().all() or spoiled == 4
        assert y[..., [0, 2]].isfinite().all()


@pytest.mark.parametrize(("w", "u"), [(58.0, 1.0), (-58.0, -1.0), (0.0, 59.0), (29.0, -30.0), (59.0, 1.5)])
def test_holds_up_to_the_limit_of_linear_sums_and_beyond(w, u):
    shape = (1, 9, 11, 3)
    images = inputs(shape, key_std=10)[2:]
    compare([torch.full((1, 3), w / 99), torch.full((1, 3), u), *images], False, None, 1e-5, 5e-5)


@pytest.mark.slow
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operator_is_registered_correctly(gated, dtype):
    decay, first, *images = inputs((2, 3, 5, 4), 2, gated)
    images = [x.to(dtype) for x in images]
    tensors = [x.requires_grad_() for x in (decay, first, *images)]
    arguments = (*tensors, *([] if gated else [None]), False, True)
    torch.library.opcheck(torch.ops.medrestore.re_wkv.default, arguments)


class Module(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.decay = torch.nn.Parameter(torch.randn(2, channels))
        self.first = torch.nn.Parameter(torch.randn(2, channels))

    def forward(self, k, v, r):
        return re_wkv(self.decay / (k.shape[1] * k.shape[2]), self.first, k, v, r, backend="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("gradients", [False, True])
def test_exports_for_images_of_any_size(gradients):
    module = Module(5)
    sizes = {1: torch.export.Dim("H", min=2), 2: torch.export.Dim("W", min=2)}
    with torch.set_grad_enabled(gradients):
        program = torch.export.export(
            module, tuple(inputs((1, 12, 20, 5), gated=True)[2:]), dynamic_shapes=(sizes,) * 3
        )
        for shape in ((1, 7, 9, 5), (1, 130, 67, 5)):
            images = inputs(shape, gated=True)[2:]
            assert torch.equal(program.module()(*images), module(*images))


def test_a_call_that_keeps_nothing_has_no_gradient():
    decay, first, k, v = inputs((1, 3, 4, 2))
    y, *_ = torch.ops.medrestore.re_wkv(decay, first, k, v.requires_grad_(), None, False, False)
    with pytest.raises(RuntimeError, match="without keep"):
        y.sum().backward()
