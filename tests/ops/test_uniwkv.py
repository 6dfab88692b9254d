"""Uni-WKV against its formula, and the formula against a loop over the tokens."""

import pytest
import torch
from torch.testing import assert_close

from medrestore_monai.ops.uniwkv import uniwkv, uniwkv_reference


def inputs(tokens, decay=1.0, keys=1.0):
    torch.manual_seed(tokens)
    w, u = (torch.randn(3, dtype=torch.float64) for _ in range(2))
    k, v = (torch.randn(2, tokens, 3, dtype=torch.float64) for _ in range(2))
    return [x.requires_grad_() for x in (w * decay / tokens, u, k * keys, v)]


def test_the_formula_is_what_a_token_after_token_loop_computes():
    w, u, k, v = inputs(11)
    numerator = denominator = torch.zeros(2, 3, dtype=torch.float64)
    for t in range(11):
        own = torch.exp(u + k[:, t])
        out = (numerator + own * v[:, t]) / (denominator + own)
        assert_close(uniwkv_reference(w, u, k, v)[:, t], out)
        fading, weight = torch.exp(-w), torch.exp(k[:, t])
        numerator, denominator = fading * numerator + weight * v[:, t], fading * denominator + weight


@pytest.mark.parametrize("tokens", [1, 2, 31, 32, 33, 100, 1030])
def test_values_and_gradients_are_those_of_the_formula(tokens):
    arguments = inputs(tokens)
    actual, expected = uniwkv(*arguments), uniwkv_reference(*arguments)
    assert_close(actual, expected)
    seed = torch.randn_like(expected)
    for got, want in zip(
        torch.autograd.grad(actual, arguments, seed), torch.autograd.grad(expected, arguments, seed), strict=True
    ):
        assert_close(got, want)


@pytest.mark.parametrize(("decay", "keys"), [(1.0, 1.0), (100.0, 1.0), (-100.0, 1.0), (1.0, 40.0)])
def test_float32_holds_for_large_decays_and_keys(decay, keys):
    exact = inputs(77, decay, keys)
    single = [x.detach().float() for x in exact]
    result = uniwkv(*single)
    assert result.dtype == torch.float32
    assert_close(result.double(), uniwkv_reference(*(x.double() for x in single)), rtol=1e-4, atol=1e-5)
