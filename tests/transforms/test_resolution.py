import numpy as np
import pytest
import torch
from skimage.transform import downscale_local_mean
from torch.testing import assert_close

from medrestore_monai.transforms import down_sample


def between_middles(values, factor, size):
    """Linear interpolation along the first axis between blocks' middles, written with NumPy."""
    middles = np.arange(len(values)) * factor + (factor - 1) / 2
    return np.stack([np.interp(np.arange(size), middles, column) for column in values.T], axis=1)


@pytest.mark.parametrize("factor", [2, 3, 5])
@pytest.mark.parametrize("size", [(30, 30), (31, 44), (11, 10)])
def test_down_sampling_is_block_means_interpolated(size, factor):
    image = np.random.RandomState(0).rand(*size)
    missing = [(0, -side % factor) for side in size]
    blocks = downscale_local_mean(np.pad(image, missing, mode="reflect"), (factor, factor))
    wide = between_middles(blocks, factor, size[0])
    expected = between_middles(wide.T, factor, size[1]).T
    assert_close(down_sample(torch.from_numpy(image)[None], factor)[0].numpy(), expected)


def test_a_step_by_hand():
    image = torch.tensor([0.0, 0.0, 4.0, 4.0])[None, :, None].repeat(1, 1, 4)
    assert_close(down_sample(image, 2)[0, :, 0], torch.tensor([0.0, 1.0, 3.0, 4.0]))


@pytest.mark.parametrize("factor", [0, 2.5, 5])
def test_a_factor_that_leaves_no_image_is_refused(factor):
    with pytest.raises(ValueError, match=r"factor must be a whole number in 1\.\.4"):
        down_sample(torch.zeros(1, 8, 9), factor)
