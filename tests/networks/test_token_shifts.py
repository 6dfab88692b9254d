"""Quad-Shift and Uni-Shift against loops over the pixels; what mixed precision leaves alone."""

import pytest
import torch
from torch.testing import assert_close

from medrestore_monai.networks.token_shifts import OmniShift, QuadShift, UniShift


@pytest.mark.parametrize("channels", [4, 6, 3])
@pytest.mark.parametrize("size", [(5, 7), (1, 4), (3, 1)])
def test_quad_shift_takes_a_quarter_of_the_channels_from_each_side(size, channels):
    shift, x = QuadShift(channels), torch.randn(2, *size, channels)
    torch.nn.init.uniform_(shift.mu)
    expected = torch.empty_like(x)
    for channel in range(channels):
        step_row, step_column = [(0, -1), (0, 1), (-1, 0), (1, 0)][channel * 4 // channels]
        for row in range(size[0]):
            for column in range(size[1]):
                y, z = row + step_row, column + step_column
                inside = 0 <= y < size[0] and 0 <= z < size[1]
                other = x[:, y, z, channel] if inside else 0
                mu = shift.mu[channel]
                expected[:, row, column, channel] = mu * x[:, row, column, channel] + (1 - mu) * other
    assert_close(shift(x), expected)
    assert_close(shift.merged()(x), expected)


@pytest.mark.parametrize("size", [(5, 7), (1, 4), (3, 1), (1, 1)])
def test_uni_shift_takes_the_token_before_across_rows(size):
    shift, x = UniShift(3), torch.randn(2, *size, 3)
    torch.nn.init.uniform_(shift.mu)
    tokens = x.flatten(1, 2)
    for t in range(tokens.shape[1]):
        before = tokens[:, t - 1] if t else 0
        assert_close(shift(x).flatten(1, 2)[:, t], shift.mu * tokens[:, t] + (1 - shift.mu) * before)


@pytest.mark.parametrize("kind", [OmniShift, QuadShift])
def test_mixed_precision_on_a_cpu_leaves_the_depthwise_convolution_in_float32(kind):
    shift, x = kind(4), torch.randn(2, 5, 7, 4)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = shift(x)
        assert shift(x.bfloat16()).dtype == torch.bfloat16  # of a network in bfloat16
    assert_close(mixed, shift(x), atol=0, rtol=0)
