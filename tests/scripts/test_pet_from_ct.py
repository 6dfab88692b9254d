"""PET drawn upon CT: activity where the tissue is, in its range, on the grid it says."""

import importlib
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "train"
SPACING = 2.0


@pytest.fixture
def drawing(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("pet_from_ct")


def chest(shape=(150, 131)):
    """A body of muscle (0 HU) with one lung (-800 HU), table below; returned with the masks of both."""
    x, y = np.mgrid[: shape[0], : shape[1]]
    body = ((x - 70) / 55) ** 2 + ((y - 60) / 40) ** 2 < 1
    lung = (x - 55) ** 2 + (y - 60) ** 2 < 18**2
    hu = np.where(body, 0.0, -1000.0)
    hu[lung] = -800
    hu[:, 118:122] = 200  # the table
    return hu.astype(np.float32), body, lung


def test_activity_is_where_the_body_is(drawing, monkeypatch):
    monkeypatch.setattr(drawing, "LESIONS", (0, 0))
    hu, _, _ = chest()
    for seed in range(5):
        suv, pixel = drawing.pet_from_ct(hu, SPACING, np.random.RandomState(seed))
        assert drawing.PIXEL[0] <= pixel <= drawing.PIXEL[1]
        np.testing.assert_allclose(suv.shape, np.array(hu.shape) * SPACING / pixel, atol=0.51)
        scale = SPACING / pixel
        muscle = suv[int(100 * scale), int(60 * scale)]
        low, high = drawing.TISSUES[2][2]
        assert low * np.exp(-1.6) < muscle < high * np.exp(1.6)  # four standard deviations of the field
        assert suv[:, int(119 * scale)].max() < 0.1 * muscle  # neither air nor table
        assert suv.min() >= 0


def test_lungs_are_filled_and_the_table_is_left_out(drawing):
    hu, body, lung = chest()
    mask = drawing.body_mask(hu)
    assert mask[lung].all()
    assert not mask[:, 116:].any()
    assert abs(mask.sum() / body.sum() - 1) < 0.02


def test_lesions_are_hot_and_inside(drawing, monkeypatch):
    monkeypatch.setattr(drawing, "LESIONS", (3, 3))
    hu, body, _ = chest()
    suv = np.zeros(hu.shape, np.float32)
    drawing._add_lesions(suv, body, SPACING, np.random.RandomState(0))
    assert suv.any()
    assert not suv[~body].any()
    assert set(np.unique(suv[suv > 0]) >= drawing.LESION_SUV[0]) == {True}


def test_one_seed_gives_one_drawing_and_air_gives_none(drawing):
    hu, _, _ = chest()
    first, second, other = (drawing.pet_from_ct(hu, SPACING, np.random.RandomState(seed))[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert first.shape != other.shape or not np.allclose(first, other)
    assert not drawing.pet_from_ct(np.full((31, 40), -1000.0), SPACING, np.random.RandomState(0))[0].any()
