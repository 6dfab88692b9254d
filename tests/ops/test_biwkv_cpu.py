"""The compiled Bi-WKV against the formula in float64; skipped where it was not built."""

import pytest
import torch
from torch.testing import assert_close

from medrestore_monai.ops import biwkv_cpu
from medrestore_monai.ops.biwkv import biwkv_reference

pytestmark = pytest.mark.skipif(not biwkv_cpu.is_available(), reason=biwkv_cpu.unavailable_reason())


def tokens(x, columns):
    """``(B, H, W, C)`` as the sequence ``(B, T, C)`` that is scanned."""
    return (x.transpose(1, 2) if columns else x).flatten(1, 2)


def inputs(shape, key_std=1.0, decay=1.0):
    _, height, width, channels = shape
    w = torch.randn(channels) * decay / (height * width)
    return w, torch.randn(channels), torch.randn(shape) * key_std, torch.randn(shape)


def relative_error(actual, expected):
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


def forward_and_gradients(function, arguments, seed):
    arguments = [x.detach().clone().requires_grad_() for x in arguments]
    y = function(*arguments)
    return y.detach(), *torch.autograd.grad(y, arguments, seed)


SHAPES = [
    (1, 1, 2, 1),
    (2, 7, 5, 3),
    (1, 1, 65, 7),
    (1, 65, 1, 17),
    (2, 7, 13, 51),
    (1, 33, 9, 48),
    (1, 70, 3, 20),
    (1, 6, 7, 200),
]


@pytest.fixture(params=["generic", "AVX2", "AVX-512"])
def instruction_set(request, monkeypatch):
    """Run with every variant of the kernel that this machine has."""
    number = ["generic", "AVX2", "AVX-512"].index(request.param)
    if number > biwkv_cpu._widest():
        pytest.skip(f"{request.param} is not available on this machine")
    monkeypatch.setattr(biwkv_cpu, "_widest", lambda: number)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("key_std", "decay"), [(1, 1), (10, 0), (3, 10)])
def test_matches_reference(shape, columns, key_std, decay):
    arguments = inputs(shape, key_std, decay)
    seed = torch.randn(shape)
    actual = forward_and_gradients(lambda w, u, k, v: biwkv_cpu.biwkv2d(w, u, k, v, columns), arguments, seed)
    wide = [x.double() for x in arguments]
    expected = forward_and_gradients(
        lambda w, u, k, v: biwkv_reference(w, u, tokens(k, columns), tokens(v, columns)),
        wide,
        tokens(seed.double(), columns),
    )
    assert relative_error(tokens(actual[0], columns), expected[0]) < 3e-6
    for got, want in zip(actual[1:], expected[1:], strict=True):
        # a gradient may cancel to nothing: then against the size of its terms, which is about 1
        assert (got.double() - want).abs().max() < 2e-5 * max(want.abs().max().item(), 1e-2)


@pytest.mark.parametrize("columns", [False, True])
def test_one_token_returns_its_value(columns):
    w, u, k, v = inputs((2, 1, 1, 20))
    assert_close(biwkv_cpu.biwkv2d(w, u, k, v, columns), v)


def two_sided_sums(w, x):
    """Decayed sums before and after each token of ``(T, C)`` by cumulative sums; float64, and small ``|w| T``, only."""
    t = torch.arange(len(x), dtype=torch.float64)[:, None]
    rising, falling = x * torch.exp(w * t), x * torch.exp(-w * t)
    before = (rising.cumsum(0) - rising) * torch.exp(-w * (t - 1))
    after = (falling.flip(0).cumsum(0).flip(0) - falling) * torch.exp(w * (t + 1))
    return before + after


def long_reference(w, u, k, v):
    e = torch.exp(k - k.max(dim=0).values)
    bonus = torch.exp(u) * e
    return (two_sided_sums(w, e * v) + bonus * v) / (two_sided_sums(w, e) + bonus)


def test_long_reference_matches_the_formula():
    w, u, k, v = (x.double() for x in inputs((1, 10, 12, 4), decay=5))
    assert_close(
        long_reference(w, u, k[0].flatten(0, 1), v[0].flatten(0, 1)),
        biwkv_reference(w, u, *map(tokens, (k, v), (0, 0)))[0],
    )


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize(("key_std", "decay"), [(1, 1), (5, 1), (1, 8)])
def test_stays_accurate_over_262144_tokens(columns, key_std, decay):
    """Errors that thousands of decays would add up; they do not show in short sequences."""
    shape = (1, 512, 512, 2)
    arguments = inputs(shape, key_std, decay)
    seed = torch.randn(shape)
    actual = forward_and_gradients(lambda w, u, k, v: biwkv_cpu.biwkv2d(w, u, k, v, columns), arguments, seed)
    w, u, k, v = (x.double() for x in arguments)
    k, v, wide_seed = (tokens(x, columns)[0] for x in (k, v, seed.double()))
    expected = forward_and_gradients(long_reference, (w, u, k, v), wide_seed)
    assert relative_error(tokens(actual[0], columns)[0], expected[0]) < 2e-6
    for got, want in zip(actual[1:], expected[1:], strict=True):
        assert relative_error(got if got.ndim == 1 else tokens(got, columns)[0], want) < 2e-5


@pytest.mark.parametrize("columns", [False, True])
def test_bfloat16_differs_by_its_rounding_only(columns):
    w, u, k, v = inputs((2, 9, 17, 20))
    k, v = k.bfloat16(), v.bfloat16()
    seed = torch.randn(k.shape).bfloat16()

    def function(w, u, k, v):
        return biwkv_cpu.biwkv2d(w, u, k, v, columns)

    half = forward_and_gradients(function, (w, u, k, v), seed)
    full = forward_and_gradients(function, (w, u, k.float(), v.float()), seed.float())
    assert [x.dtype for x in half] == [torch.bfloat16, torch.float32, torch.float32, torch.bfloat16, torch.bfloat16]
    for got, want in zip(half, full, strict=True):
        assert torch.equal(got, want.to(got.dtype))


@pytest.mark.usefixtures("instruction_set")
def test_bfloat16_rounds_ties_to_even():
    """Two equal weights: the mean of neighboring bfloat16 numbers lies half way between them."""
    step = 2.0**-7
    v = torch.tensor([[1.0, 1 + step], [1 + step, 1 + 2 * step]]).T.reshape(1, 1, 2, 2).bfloat16()
    zero = torch.zeros(2)
    assert biwkv_cpu.biwkv2d(zero, zero, torch.zeros_like(v), v)[0, 0, 0].tolist() == [1.0, 1 + 2 * step]


@pytest.mark.parametrize("columns", [False, True])
def test_number_of_threads_changes_nothing(columns):
    shape = (2, 96, 80, 48)
    arguments, seed = inputs(shape), torch.randn(shape)

    def function(w, u, k, v):
        return biwkv_cpu.biwkv2d(w, u, k, v, columns)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = forward_and_gradients(function, arguments, seed)
        torch.set_num_threads(5)
        many = forward_and_gradients(function, arguments, seed)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))


def test_columns_of_a_transposed_image_are_its_rows():
    w, u, k, v = inputs((1, 12, 20, 5))
    columns = biwkv_cpu.biwkv2d(w, u, k, v, columns=True)
    rows = biwkv_cpu.biwkv2d(w, u, k.transpose(1, 2), v.transpose(1, 2))
    assert_close(columns, rows.transpose(1, 2), rtol=0, atol=2e-6)  # chunks lie differently


def test_not_a_number_is_not_hidden():
    for spoiled in (2, 3):
        arguments = inputs((1, 4, 5, 3))
        arguments[spoiled][0, 1, 2, 1] = torch.nan
        y = biwkv_cpu.biwkv2d(*arguments)
        assert y[..., 1].isnan().all()
        assert y[..., [0, 2]].isfinite().all()


@pytest.mark.parametrize(("w", "u"), [(58.0, 1.0), (-58.0, -1.0), (0.0, 59.0), (29.0, -30.0)])
def test_holds_up_to_its_limit(w, u):
    shape = (1, 9, 11, 3)
    arguments = (torch.full((3,), w / 99), torch.full((3,), u), torch.randn(shape) * 10, torch.randn(shape))
    assert biwkv_cpu.supports(arguments[0], arguments[1], 99)
    seed = torch.randn(shape)
    actual = forward_and_gradients(biwkv_cpu.biwkv2d, arguments, seed)
    expected = forward_and_gradients(
        lambda w, u, k, v: biwkv_reference(w, u, tokens(k, False), tokens(v, False)),
        [x.double() for x in arguments],
        tokens(seed.double(), False),
    )
    assert relative_error(tokens(actual[0], False), expected[0]) < 1e-5
    for got, want in zip(actual[1:], expected[1:], strict=True):
        assert (got.double().flatten() - want.flatten()).abs().max() < 5e-5 * max(want.abs().max().item(), 0.1)


def test_refuses_what_it_cannot_do():
    w, u, k, v = inputs((1, 4, 5, 3))
    assert not biwkv_cpu.supports(torch.full((3,), 3.1), u, 20)
    with pytest.raises(RuntimeError, match="max"):
        biwkv_cpu.biwkv2d(torch.full((3,), 3.1), u, k, v)
    with pytest.raises(ValueError, match=r"\(B, H, W, C\)"):
        biwkv_cpu.biwkv2d(w, u, k[0], v[0])
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        biwkv_cpu.biwkv2d(w[:2], u, k, v)
    with pytest.raises(TypeError, match="float64"):
        biwkv_cpu.biwkv2d(w, u, k.double(), v.double())


@pytest.mark.parametrize("columns", [False, True])
def test_registered_as_torch_expects(columns):
    arguments = [x.requires_grad_() for x in inputs((1, 3, 5, 4))]
    torch.library.opcheck(
        torch.ops.medrestore.biwkv2d.default,
        (*arguments, columns),
        # its second result, the states, carries no gradient: aot_dispatch cannot know
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_exports_with_free_height_and_width():
    class Mix(torch.nn.Module):
        def forward(self, w, u, k, v):
            return biwkv_cpu._forward(w, u, k, v, True)[0]

    height, width = torch.export.Dim("height", min=2, max=512), torch.export.Dim("width", min=2, max=512)
    image = {1: height, 2: width}
    program = torch.export.export(Mix(), inputs((1, 6, 8, 4)), dynamic_shapes=(None, None, image, image))
    other = inputs((1, 130, 9, 4))
    assert_close(program.module()(*other), biwkv_cpu.biwkv2d(*other, columns=True))
