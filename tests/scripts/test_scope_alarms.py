"""Wrong inputs are what their names say, and intervals are exact."""

from itertools import repeat

import numpy as np
import pytest
from script_loading import load_script

from medrestore_monai.audit import Volume

script = load_script("experiments/scope_alarms.py")


def case(modality="CT"):
    rng = np.random.default_rng(0)
    clean = np.where(np.arange(80)[:, None, None] < 55, 40.0, -1000.0) + np.zeros((80, 70, 2))
    noisy = clean + rng.normal(0, 20, clean.shape)
    return script.Case("someone", "folder", clean.astype(np.float32), Volume(noisy, modality, (0.7, 0.7, 3.0)))


@pytest.mark.slow
def test_there_are_twelve_wrong_inputs_with_one_thing_wrong():
    one = case()
    found = {name: wrong(one) for name, wrong in script.wrong_inputs(repeat(np.zeros((60, 60), np.float32))).items()}
    assert len(found) == 12
    assert found["pixel size x 4"].spacing == pytest.approx((2.8, 2.8, 3.0))
    assert found["slice distance x 4"].spacing == pytest.approx((0.7, 0.7, 12.0))
    assert np.allclose(found["HU + 1024"].array, one.image.array + 1024)
    extra = found["three times the noise"].array - one.clean
    assert np.allclose(extra, 3 * (one.image.array - one.clean), atol=1e-3)
    assert found["enlarged twice"].array.shape == (160, 140, 2)
    assert found["enlarged twice"].spacing == pytest.approx((0.35, 0.35, 3.0))
    air = found["cropped to air"].array
    assert air.shape[:2] == (35, 35)
    assert air.mean() < -500
    assert np.ptp(found["sharper kernel"].array[:50]) > np.ptp(one.image.array[:50])
    assert np.std(found["already denoised"].array[10:40]) < 8


@pytest.mark.parametrize(("modality", "missing"), [("PT", {"HU + 1024"}), ("MR", {"another unit"})])
def test_what_a_modality_does_not_have_is_left_out(modality, missing):
    one = case(modality)
    wrongs = script.wrong_inputs(repeat(np.zeros((60, 60), np.float32)))
    assert {name for name, wrong in wrongs.items() if wrong(one) is None} == missing


def test_each_case_gets_the_next_slice_of_another_modality():
    wrong = script.wrong_inputs(iter([np.full((60, 60), one, np.float32) for one in (7, 9)]))["HU + 1024"]
    assert [float(wrong(case("MR")).array.max()) for _ in range(2)] == [1031, 1033]


def test_intervals_are_exact_binomial_ones():
    # Clopper and Pearson: 1 - 0.025^(1/9) and so on
    assert script.interval(0, 9) == "0 of 9 (0 to 34 %)"
    assert script.interval(5, 5) == "5 of 5 (48 to 100 %)"
