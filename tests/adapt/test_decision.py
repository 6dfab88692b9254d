"""Adopted is what is better beyond chance, and nothing else."""

import math

import numpy as np
import pytest
from scipy import stats

from medrestore_monai.adapt.decision import decide
from medrestore_monai.adapt.scores import UnitScores


def units(gains, ssim=0.0, mean=(0.0, 0.0), gain=(0.8, 0.8)):
    return [
        UnitScores(
            number,
            number,
            2,
            psnr={"input": 20.0, "before": 30.0, "after": 30.0 + value},
            ssim={"input": 0.7, "before": 0.9, "after": 0.9 + ssim},
            mean=dict(zip(("before", "after"), mean, strict=True)),
            gain=dict(zip(("before", "after"), gain, strict=True)),
        )
        for number, value in enumerate(gains)
    ]


GAINS = [0.3, 0.5, 0.2, 0.4, 0.6]


def test_a_gain_beyond_chance_is_adopted():
    decision = decide(units(GAINS), "CT")
    assert decision.adopt
    assert decision.gain == pytest.approx(0.4)
    expected = stats.ttest_1samp(GAINS, 0, alternative="greater").pvalue
    assert decision.p_value == pytest.approx(expected)


def test_the_least_gain_that_shows_is_significant():
    spread = np.array(GAINS) - np.mean(GAINS)
    visible = decide(units(GAINS), "CT").least_visible
    assert decide(units(spread + visible * 1.01), "CT").adopt
    assert not decide(units(spread + visible * 0.99), "CT").adopt


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (units([0.04] * 5), "below 0.05 dB"),
        (units([2.0, -1.5, 0.3, 1.0, -0.9]), "may be chance"),
        (units([-0.5, -0.6, -0.4, -0.5, -0.5]), "below 0.05 dB"),
        (units(GAINS, ssim=-0.002), "SSIM falls"),
        (units(GAINS, mean=(0.2, 1.3)), "mean of the body is 1.3 HU off"),
        (units(GAINS, mean=(0.2, -1.3)), "mean of the body is 1.3 HU off"),
        (units(GAINS, gain=(0.8, 0.7)), "signal gain goes from 0.80 to 0.70"),
        (units(GAINS, gain=(0.9, 1.2)), "signal gain"),
        (units(GAINS[:4]), "too few to tell, 4 units"),
    ],
)
def test_what_is_not_adopted_says_why(given, reason):
    decision = decide(given, "CT")
    assert not decision.adopt
    assert reason in decision.line


def test_four_units_can_never_tell():
    assert not decide(units([1.0, 1.1, 1.2, 1.0]), "CT").adopt


def test_chance_is_adopted_as_often_as_the_test_says():
    rng = np.random.default_rng(0)
    adopted = sum(decide(units(rng.normal(0, 0.5, 8)), "CT").adopt for _ in range(400))
    assert adopted / 400 == pytest.approx(0.025, abs=3 * math.sqrt(0.025 / 400))
