"""The measured noise of PET, against noise that was put in."""

import numpy as np
import pytest
import torch

from medrestore_monai.adapt.noise_model import measure_noise
from medrestore_monai.transforms.ct.noise import NoFlatTissueError
from medrestore_monai.transforms.pet import low_count

pytestmark = pytest.mark.slow

SPACING = (4.0, 4.0, 4.0)


def pet_scan(counts=40.0, width=7.0, axial_width=6.0, slices=8):
    """A noisy scan ``(1, X, Y, Z)`` in SUV and the same without noise."""
    x, y = np.mgrid[-1:1:91j, -1:1:80j]
    body = np.where(np.hypot(x / 0.9, y / 0.8) < 1, 1.0, 0.0) + 3.0 * (np.hypot(x - 0.4, y) < 0.15)
    clean = torch.from_numpy(body).float()[None, ..., None].expand(-1, -1, -1, slices)
    scan = low_count.PETLowCount(2.0, counts, width, axial_width=axial_width, seed=5)
    return low_count.insert_pet_noise(clean, None, SPACING[0], scan, distance=SPACING[2])[0], clean


def test_level_grain_and_slices_are_those_put_in():
    volume, clean = pet_scan()
    model = measure_noise(volume, SPACING, "PT")
    inside = (slice(20, 70), slice(15, 35))
    level = float(model.std[0][inside].square().mean().sqrt() / (volume - clean)[0][inside].std())
    assert level == pytest.approx(1, abs=0.08)
    assert model.width == pytest.approx(7.0, abs=1.2)
    assert model.axial_width == pytest.approx(6.0, abs=1.2)
    assert 0.05 < model.relative < 0.5
    drawn = model.draw(torch.Generator().manual_seed(1))
    assert float((volume + drawn).min()) >= 0
    measured = float(drawn[0][inside].std() / model.std[0][inside].square().mean().sqrt())
    assert measured == pytest.approx(1, abs=0.1)
    other = model.of_family()
    assert other.width > model.width
    assert float(other.std.mean()) == pytest.approx(float(model.std.mean()), rel=1e-3)
    assert model.cropped((slice(0, 41), slice(5, 40), slice(2, 4))).draw().shape == (1, 41, 35, 2)


def test_an_empty_scan_is_refused():
    with pytest.raises(NoFlatTissueError):
        measure_noise(torch.zeros(1, 40, 41, 3), SPACING, "PT")
