"""The Haar transform is PyWavelets', orthonormal, and inverted exactly, on odd sizes too."""

import numpy as np
import pytest
import pywt
import torch
from torch.testing import assert_close

from medrestore_monai.ops.wavelet import haar_dwt, haar_iwt

SIZES = [(2, 3, 8, 12), (1, 2, 7, 9), (3, 1, 1, 1), (1, 4, 1, 10), (1, 1, 33, 64), (2, 2, 5, 2)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bands_are_those_of_pywavelets(size):
    x = torch.randn(size)
    approximation, details = pywt.dwt2(x.double().numpy(), "haar", mode="symmetric")
    expected = np.concatenate([approximation, *details], axis=1)
    assert np.abs(haar_dwt(x).numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_inverse_is_that_of_pywavelets(size):
    bands = torch.randn(size[0], 4 * size[1], *size[2:])
    approximation, *details = np.split(bands.double().numpy(), 4, axis=1)
    assert np.abs(haar_iwt(bands).numpy() - pywt.idwt2((approximation, tuple(details)), "haar")).max() < 1e-6


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_inverse_gives_the_image_back(size):
    x = torch.randn(size)
    assert (haar_iwt(haar_dwt(x), size[2:]) - x).abs().max() < 1e-6


def test_three_levels_give_the_image_back():
    x = torch.rand(1, 2, 40, 24)
    bands = haar_dwt(haar_dwt(haar_dwt(x)))
    assert bands.shape == (1, 128, 5, 3)
    assert (haar_iwt(haar_iwt(haar_iwt(bands))) - x).abs().max() < 1e-6


def test_the_transform_is_orthonormal():
    # its matrix on all unit images of one 4x6 plane
    matrix = haar_dwt(torch.eye(24).view(24, 1, 4, 6)).flatten(1)
    assert_close(matrix @ matrix.T, torch.eye(24), rtol=0, atol=1e-6)


def test_a_block_by_hand():
    x = torch.tensor([[[[1.0, 2], [3, 7]]]])
    assert haar_dwt(x).flatten().tolist() == [6.5, -3.5, -2.5, 1.5]


def test_gradients_are_those_of_the_matrix():
    for function, shape in ((haar_dwt, (2, 2, 3, 5)), (haar_iwt, (2, 4, 3, 2))):
        assert torch.autograd.gradcheck(function, torch.randn(shape, dtype=torch.float64, requires_grad=True))


def test_bfloat16_stays_bfloat16():
    x = torch.rand(1, 2, 6, 6)
    low = haar_dwt(x.bfloat16())
    assert low.dtype == torch.bfloat16
    assert_close(low.float(), haar_dwt(x), rtol=0.02, atol=0.02)


def test_wrong_input_is_refused():
    for wrong in (torch.rand(3, 4, 4), torch.rand(1, 1, 0, 4)):
        with pytest.raises(ValueError, match=r"expected a non-empty \(B, C, H, W\)"):
            haar_dwt(wrong)
    for wrong in (torch.rand(4, 4, 4), torch.rand(1, 4, 0, 4), torch.rand(1, 6, 4, 4)):
        with pytest.raises(ValueError, match=r"expected a non-empty \(B, 4 \* C, H, W\)"):
            haar_iwt(wrong)
    with pytest.raises(ValueError, match="bands of 2x3 are not those of an image of 3x4"):
        haar_iwt(torch.rand(1, 4, 2, 3), (3, 4))


def test_channels_that_lie_last_stay_there():
    x = torch.randn(2, 8, 6, 10)
    last = x.contiguous(memory_format=torch.channels_last)
    bands, image = haar_dwt(x), haar_iwt(x)
    with torch.no_grad():
        for result, expected in ((haar_dwt(last), bands), (haar_iwt(last), image)):
            assert result.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(result, expected)
        assert torch.equal(haar_iwt(last, (11, 20)), haar_iwt(x, (11, 20)))
