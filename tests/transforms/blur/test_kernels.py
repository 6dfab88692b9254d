import math

import numpy as np
import pytest
from scipy import ndimage

from medrestore_monai.transforms.blur.kernels import gaussian_kernel, linear_motion_kernel, motion_kernel

ANGLES = [-45.0, -30.0, 0.0, 12.5, 45.0]


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("length", [2, 3, 20, 33, 45])
def test_motion_kernel_is_the_rotated_diagonal_of_scipy(length, angle):
    side = length | 1
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    back = np.array([[cosine, sine], [-sine, cosine]])  # from a pixel of the kernel to one of the diagonal
    offset = np.full(2, (length - 1) / 2) - back @ np.full(2, side // 2)
    framed = np.pad(np.eye(length), 2)  # what lies between the last pixel and the border counts too
    rotated = ndimage.affine_transform(framed, back, offset + 2, output_shape=(side, side), order=1)
    np.testing.assert_allclose(motion_kernel(length, angle), rotated / rotated.sum(), atol=1e-9)


def test_motion_kernel_by_hand():
    np.testing.assert_allclose(motion_kernel(3, 0), np.eye(3) / 3)
    # an eighth of a turn: one step along the axis lands 1 / sqrt(2) along row and column, between two pixels of
    # the diagonal; one step beside the axis lands as far from the middle one in row and column, beside the diagonal
    along = (1 - 1 / math.sqrt(2)) ** 2 + 1 / 2
    beside = (1 - 1 / math.sqrt(2)) ** 2
    whole = 1 + 2 * along + 2 * beside
    expected = np.array([[0, along, 0], [beside, 1, beside], [0, along, 0]]) / whole
    np.testing.assert_allclose(motion_kernel(3, -45), expected, atol=1e-12)
    np.testing.assert_allclose(motion_kernel(3, 45), expected.T, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 17.0, 45.0, 90.0, 133.0, 180.0, -20.0])
@pytest.mark.parametrize("length", [1.0, 2.0, 3.0, 4.7, 9.0, 21.3])
def test_linear_kernel_is_the_time_spent_in_each_pixel(length, angle):
    kernel = linear_motion_kernel(length, angle)
    half = kernel.shape[0] // 2
    steps = 40_000
    along = ((np.arange(steps) + 0.5) / steps - 0.5) * length
    x, y = (np.floor(along * part(math.radians(angle)) + 0.5 + 1e-9) for part in (math.cos, math.sin))
    edges = np.arange(-half, half + 2) - 0.5
    spent = np.histogram2d(x, y, bins=[edges, edges])[0] / steps
    np.testing.assert_allclose(kernel, spent, atol=1e-3)


@pytest.mark.parametrize(
    "kernel",
    [motion_kernel(20, 31.0), motion_kernel(45, -8.0), linear_motion_kernel(8.3, 70.0), gaussian_kernel(1.3)],
    ids=["even", "odd", "linear", "gaussian"],
)
def test_kernels_sum_to_one_and_shift_nothing(kernel):
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert kernel.min() >= 0
    assert all(side % 2 for side in kernel.shape)
    np.testing.assert_array_equal(kernel, np.flip(kernel))


@pytest.mark.parametrize("kernel", [motion_kernel(1, 30.0), linear_motion_kernel(1, 30.0), gaussian_kernel(0)])
def test_the_least_strength_is_one_pixel(kernel):
    assert kernel.ravel().tolist() == [1.0]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: motion_kernel(0, 0), "length must be a whole number"),
        (lambda: motion_kernel(2.5, 0), "got 2.5"),
        (lambda: motion_kernel(3, math.nan), "nan degrees"),
        (lambda: linear_motion_kernel(0.5, 0), "1 to 1000 pixels"),
        (lambda: linear_motion_kernel(math.inf, 0), "got inf"),
        (lambda: motion_kernel(1001, 0), "1 to 1000 pixels"),
        (lambda: gaussian_kernel(1e6), "0 to 1000 pixels"),
        (lambda: gaussian_kernel(-1), "0 to 1000 pixels"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
