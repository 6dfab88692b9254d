"""Which slices are true neighbors, by hand: ends, gaps, changes of spacing, tilt, oblique stacks."""

import numpy as np
import pytest

from medrestore_monai.neighbors import neighbor_numbers, slice_steps, steps_of_affine


def offsets(steps, context=2, distance=None):
    """Rows of offsets, 0 where a copy of the middle stands."""
    numbers = neighbor_numbers(steps, context, distance)
    return (numbers - np.arange(len(numbers))[:, None]).tolist()


def test_ends_have_neighbors_on_one_side():
    assert offsets([3.0] * 4) == [
        [0, 0, 0, 1, 2],
        [0, -1, 0, 1, 2],
        [-2, -1, 0, 1, 2],
        [-2, -1, 0, 1, 0],
        [-2, -1, 0, 0, 0],
    ]
    assert offsets([]) == [[0] * 5]
    assert offsets([2.0], 0) == [[0], [0]]


def test_no_neighbor_beyond_a_gap():
    assert offsets([4, 4, 8, 4]) == [
        [0, 0, 0, 1, 2],
        [0, -1, 0, 1, 0],
        [-2, -1, 0, 0, 0],
        [0, 0, 0, 1, 0],
        [0, -1, 0, 0, 0],
    ]


def test_changes_of_spacing_end_the_neighborhood():
    rows = offsets([4, 4, 7, 7, 7])
    assert rows[2] == [-2, -1, 0, 0, 0]  # the nearer side counts
    assert rows[3] == [0, -1, 0, 1, 2]
    assert offsets([4.0, 4.07, 3.95, 4.0])[2] == [0, 0, 0, 1, 2]  # 3 % are a change
    assert offsets([4.0, 4.03, 3.98, 4.0])[2] == [-2, -1, 0, 1, 2]  # 1 % is not


def test_unknown_steps_and_those_never_trained_give_copies():
    expected = [[0, 0, 0], [0, 0, 1], [-1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert offsets([0.0, 3.0, float("nan"), float("inf")], 1) == expected
    assert offsets([9.0, 3.0, 3.0], 1, (1, 5)) == [[0, 0, 0], [0, 0, 1], [-1, 0, 1], [-1, 0, 0]]


def test_steps_by_hand():
    normal = np.array([0.0, 0.0, 1.0])
    origins = np.array([[0, 0, 0], [0, 0, 2.5], [0.1, 0, 5], [0.1, 2, 7.5], [0.1, 2, 7.5]])
    np.testing.assert_allclose(slice_steps(origins, normal, 0.8), [2.5, 2.5, 0, 0])  # shifted by 2 mm; doubled


def test_oblique_stacks_are_upright_and_tilted_ones_are_not():
    angle = np.radians(25)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    oblique = np.eye(4)
    oblique[:3, :3] = turn @ np.diag([0.9, 0.9, 4.0])
    np.testing.assert_allclose(steps_of_affine(oblique, 4), [4, 4, 4])
    tilted = np.diag([0.5, 0.5, 4.0, 1.0])
    tilted[1, 2] = 4 * np.tan(np.radians(15))  # a gantry tilted by 15 degrees
    assert steps_of_affine(tilted, 3).tolist() == [0, 0]
    assert steps_of_affine(np.zeros((4, 4)), 3).tolist() == [0, 0]
    assert steps_of_affine(np.eye(4), 1).tolist() == []


@pytest.mark.parametrize("context", [1, 2, 3])
def test_a_part_with_halo_has_the_neighbors_of_the_whole(context):
    steps = np.array([3, 3, 3, 6, 3, 3, 0, 3, 3, 3, 3.0])
    whole = neighbor_numbers(steps, context)
    for start in range(len(whole)):
        stop = min(start + 4, len(whole))
        low, high = max(0, start - context), min(len(whole), stop + context)
        part = neighbor_numbers(steps[low : high - 1], context)[start - low : stop - low] + low
        np.testing.assert_array_equal(part, whole[start:stop])
