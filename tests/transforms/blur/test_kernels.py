import math

import numpy as np
import pytest
from scipy import ndimage

from medrestore_monai.transforms.blur.kernels import (
    anisotropic_gaussian_kernel,
    bent_path,
    disk_kernel,
    gaussian_kernel,
    linear_motion_kernel,
    motion_kernel,
    path_kernel,
)

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
    np.testing.assert_allclose(motion_kernel(length, angle, "length"), rotated / length, atol=1e-9)


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


def test_divided_by_its_length_a_kernel_lacks_what_left_the_square():
    sums = [motion_kernel(45, angle, "length").sum() for angle in np.linspace(-45, 45, 91)]
    # a line through a square is 1 / cos long, counted from the nearer axis; the diagonal, which is whole, sqrt(2)
    turned = np.radians(np.linspace(0, 45, 1000))
    assert np.mean(sums) == pytest.approx(np.mean(1 / np.cos(turned)) / math.sqrt(2), abs=0.01)
    assert motion_kernel(33, 0, "length").sum() == pytest.approx(1)
    assert motion_kernel(1, 30.0, "length").tolist() == [[1.0]]


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


# the fourth one has a square whose last bit depends on how it is computed
@pytest.mark.parametrize("radius", [0.6, 1.0, 1.5, 2.5624193437174605, 2.71, 5.0, 15.5])
def test_disk_kernel_is_an_oversampled_disk(radius):
    kernel, fine = disk_kernel(radius), 201
    side = kernel.shape[0]
    assert side == 2 * math.ceil(radius - 0.5) + 1
    x = (np.arange(side * fine) + 0.5) / fine - side / 2
    inside = x[:, None] ** 2 + x[None, :] ** 2 <= radius**2
    expected = inside.reshape(side, fine, side, fine).mean(axis=(1, 3))
    np.testing.assert_allclose(kernel * np.pi * radius**2, expected, atol=2e-3)  # of a covered pixel


def moments(kernel):
    """Center of mass and covariance of a kernel about its middle."""
    x = np.arange(kernel.shape[0]) - kernel.shape[0] // 2
    places = np.stack(np.meshgrid(x, x, indexing="ij")).reshape(2, -1)
    middle = places @ kernel.ravel()
    return middle, (places * kernel.ravel()) @ places.T - np.outer(middle, middle)


@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, 135.0, -20.0])
@pytest.mark.parametrize(("along", "across"), [(3.0, 1.0), (0.7, 2.5), (1.3, 1.3), (5.0, 0.7)])
def test_anisotropic_gaussian_has_the_covariance_of_its_widths(along, across, angle):
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = np.array([[cosine, -sine], [sine, cosine]])
    expected = turn @ np.diag([along**2, across**2]) @ turn.T
    _, covariance = moments(anisotropic_gaussian_kernel(along, across, angle))
    np.testing.assert_allclose(covariance, expected, atol=0.003 * max(along, across) ** 2)  # what is cut off


@pytest.mark.parametrize("sigma", [0.5, 1.3, 3.0])
def test_equal_widths_are_the_gaussian_along_each_axis(sigma):
    one = gaussian_kernel(sigma)
    np.testing.assert_allclose(anisotropic_gaussian_kernel(sigma, sigma, 33.0), np.outer(one, one), atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("length", "bend", "angle"), [(9.0, 0.0, 30.0), (21.3, 20.0, -45.0), (31.0, 60.0, 200.0)])
def test_a_bent_path_has_the_length_bend_and_direction_asked_for(length, bend, angle, seed):
    path = bent_path(length, bend, angle, seed)
    steps = np.diff(path, axis=0)
    np.testing.assert_allclose(np.hypot(*steps.T), length / len(path))  # constant speed
    np.testing.assert_allclose(path.mean(axis=0), 0, atol=1e-12)
    direction = np.degrees(np.unwrap(np.arctan2(steps[:, 1], steps[:, 0])))
    assert direction.std() == pytest.approx(bend, rel=0.05, abs=1e-6)
    assert (direction.mean() - angle) % 360 == pytest.approx(0, abs=2.0) or (angle - direction.mean()) % 360 < 2.0
    assert np.abs(np.diff(direction)).max() < 0.15 * max(bend, 1e-6)  # smooth
    turns = np.diff(direction)
    assert bend == 0 or turns.min() < turns.max()  # a changing curvature, not a circle


def test_another_seed_is_another_path_of_the_same_extent():
    one, same, other = (bent_path(15.0, 40.0, 10.0, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.5


@pytest.mark.parametrize("seed", [0, 1])
def test_path_kernel_averages_the_picture_along_the_path(seed):
    picture = np.random.RandomState(seed).rand(40, 43)
    path = bent_path(12.0, 50.0, 65.0, seed)
    kernel = path_kernel(path)
    blurred = ndimage.convolve(picture, kernel)
    for x, y in [(15, 20), (20, 22), (24, 14)]:
        seen = ndimage.map_coordinates(picture, [x - path[:, 0], y - path[:, 1]], order=1)
        assert blurred[x, y] == pytest.approx(seen.mean(), abs=1e-12)


@pytest.mark.parametrize("angle", [0.0, 17.0, 45.0, 120.0])
@pytest.mark.parametrize("length", [5.0, 13.0, 30.0])
def test_a_path_without_bend_spreads_like_straight_motion(length, angle):
    _, expected = moments(linear_motion_kernel(length, angle))
    middle, covariance = moments(path_kernel(bent_path(length, 0.0, angle, 0)))
    np.testing.assert_allclose(middle, 0, atol=1e-12)
    np.testing.assert_allclose(covariance, expected, atol=0.26)  # square pixels of another kind: up to 1/4 px^2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_bent_kernel_sums_to_one_about_its_middle(seed):
    kernel = path_kernel(bent_path(23.7, 70.0, 100.0, seed))
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert kernel.min() >= 0
    assert all(side % 2 for side in kernel.shape)
    np.testing.assert_allclose(moments(kernel)[0], 0, atol=1e-12)
    assert np.abs(kernel - np.flip(kernel)).max() > 1e-3


@pytest.mark.parametrize(
    "kernel",
    [
        motion_kernel(20, 31.0),
        motion_kernel(45, -8.0),
        linear_motion_kernel(8.3, 70.0),
        gaussian_kernel(1.3),
        disk_kernel(4.4),
        anisotropic_gaussian_kernel(2.2, 0.8, 25.0),
    ],
    ids=["even", "odd", "linear", "gaussian", "disk", "anisotropic"],
)
def test_kernels_sum_to_one_and_shift_nothing(kernel):
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert kernel.min() >= 0
    assert all(side % 2 for side in kernel.shape)
    np.testing.assert_array_equal(kernel, np.flip(kernel))


@pytest.mark.parametrize(
    "kernel",
    [
        motion_kernel(1, 30.0),
        linear_motion_kernel(1, 30.0),
        gaussian_kernel(0),
        anisotropic_gaussian_kernel(0, 0, 30.0),
        disk_kernel(0),
        disk_kernel(0.5),
        path_kernel(bent_path(0, 30.0, 30.0, 1)),
    ],
)
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
        (lambda: motion_kernel(5, 0, "max"), "divisor must be one of sum, length, got 'max'"),
        (lambda: gaussian_kernel(1e6), "0 to 1000 pixels"),
        (lambda: gaussian_kernel(-1), "0 to 1000 pixels"),
        (lambda: anisotropic_gaussian_kernel(0.4, 2, 0), "0.5 to 1000 pixels, or 0 both, got 0.4 and 2"),
        (lambda: anisotropic_gaussian_kernel(0, 2, 0), "or 0 both"),
        (lambda: anisotropic_gaussian_kernel(2, 2, math.inf), "inf degrees"),
        (lambda: disk_kernel(-0.1), "radius must be 0 to 1000 pixels, got -0.1"),
        (lambda: disk_kernel(math.nan), "got nan"),
        (lambda: bent_path(-1, 0, 0, 0), "length must be 0 to 1000 pixels"),
        (lambda: bent_path(5, 181, 0, 0), "bend must be 0 to 180 degrees"),
        (lambda: bent_path(5, 0, math.nan, 0), "angle finite"),
        (lambda: path_kernel(np.zeros((0, 2))), r"points \(N, 2\)"),
        (lambda: path_kernel(np.full((3, 2), math.nan)), "within 1000 pixels"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
