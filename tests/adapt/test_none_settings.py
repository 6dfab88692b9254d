"""What an adaptation without targets chooses by what it measured."""

import json
import math

import pytest
from tiny_bundle import BUNDLES

from medrestore_monai.adapt.measured import choose_recorruption
from medrestore_monai.adapt.unfit_noise import MOST, THICK
from medrestore_monai.data import shortened


@pytest.mark.parametrize("name", ["ct_denoise_restore_rwkv", "pet_synthesis_restore_rwkv"])
def test_the_training_reads_the_slabs_that_were_checked(name):
    config = json.loads((BUNDLES / name / "configs" / "adapt_none.json").read_text())
    assert {"train": config["train_slices"], "tune": config["tune_slices"]} == MOST
    assert config["thick"] == THICK


def test_the_share_of_the_shipped_weights_is_trained():
    chosen = choose_recorruption(0.28, math.nan)
    assert (chosen.alpha, chosen.kept) == (0.7, 0.28)
    assert chosen.beta == pytest.approx((1 - 0.28 * 1.49) / 0.7)
    assert choose_recorruption(0.28, 0.29) == chosen  # PET of little noise
    assert choose_recorruption(0.9, math.nan).beta == pytest.approx(0)  # as much as alpha allows


@pytest.mark.parametrize(("passed", "alpha"), [(0.5, 1.0), (0.1, 1.5), (0.9, 0.7)])
def test_nothing_is_taken_from_the_target_of_noisy_pet(passed, alpha):
    chosen = choose_recorruption(passed, 0.4)
    assert chosen.beta == pytest.approx(0, abs=1e-9)
    assert chosen.alpha == pytest.approx(alpha)
    assert chosen.passed == passed


def test_thick_slabs_are_fewer():
    slabs = [{"name": str(n), "series_uid": "", "start": 0, "stop": 30} for n in range(10)]
    kept = shortened(slabs, 48, 8)
    assert [slab["stop"] - slab["start"] for slab in kept] == [8] * 6
    assert [slab["start"] for slab in kept] == [11] * 6
    assert len(shortened(slabs, 48)) == 10
