"""What the script for real CT pairs says can be reached at best, on noise that is known."""

import runpy
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "experiments" / "evaluate_ct_pairs.py"
attainable_gain = runpy.run_path(str(SCRIPT))["attainable_gain"]


@pytest.mark.parametrize("dose", [0.25, 0.1])
def test_the_noise_of_full_dose_limits_the_gain(dose):
    # with noise added to full dose, 1 - dose of the full-dose variance remains, of 1 / dose - 1: a gain of 1 / dose
    rng = np.random.default_rng(0)
    rows, columns = np.indices((160, 130)) / 20
    full = 40 + 5 * np.sin(rows) * np.cos(columns) + 10 * rng.standard_normal(rows.shape)
    quarter = full + 10 * np.sqrt(1 / dose - 1) * rng.standard_normal(rows.shape)
    assert attainable_gain(quarter, full) == pytest.approx(-10 * np.log10(dose), abs=0.3)


def test_independent_noise_can_be_removed_but_for_that_of_full_dose():
    rng = np.random.default_rng(1)
    full, quarter = (np.full((150, 150), 50.0) + s * rng.standard_normal((150, 150)) for s in (10, 20))
    assert attainable_gain(quarter, full) == pytest.approx(10 * np.log10(5), abs=0.3)
