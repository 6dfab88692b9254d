"""Adopt or keep, by estimated errors."""

import math

import pytest

from medrestore_monai.adapt.estimated_verdict import decide_without_targets, predicted_gain
from medrestore_monai.adapt.guards import Guard, guard_kept
from medrestore_monai.adapt.risk import Risk

KEPT = 0.25


def risks(better, units=6, strength=1.0):
    """Restorations that keep a quarter of the noise, and whose error of the image is ``better`` dB smaller than 40."""
    rest = 40 * 10 ** (-better / 10)
    found = []
    for unit in range(units):
        best = (rest + unit % 3) / 400  # the part of the noise that the best estimate lets pass
        removed = (1 - KEPT) * (1 - best)
        found.append(Risk(strength**2 * removed * (1 - KEPT) * 400, 1 - strength * removed, 400.0))
    return found


def judged(adapted, units=6, **more):
    shipped = risks(0.0, units)
    return decide_without_targets([shipped, shipped], [adapted, adapted], range(units), KEPT, **more)


def test_better_weights_are_adopted():
    verdict = judged(risks(1.0))
    assert verdict.adopt
    assert verdict.gain > 0.05
    assert verdict.p_value < 0.025
    assert len(verdict.gains) == 18


def test_gain_is_that_of_closed_form():
    shipped, adapted = risks(0.0, 1), risks(1.0, 1)
    rest = [0.75**2 * 40 + 0.1875 * 400, 0.75**2 * 40 * 10**-0.1 + 0.1875 * 400]
    assert predicted_gain(shipped, adapted, KEPT)[0] == pytest.approx(10 * math.log10(rest[0] / rest[1]))


@pytest.mark.parametrize("strength", [0.8, 1.1, 1.5])
def test_another_strength_is_not_adopted(strength):
    verdict = judged(risks(0.0, strength=strength))
    assert not verdict.adopt


def test_worse_weights_are_kept_out():
    verdict = judged(risks(-0.5))
    assert not verdict.adopt
    assert any("below 0.05 dB" in reason for reason in verdict.reasons)


def test_few_units_tell_nothing():
    verdict = judged(risks(3.0, 4), 4)
    assert not verdict.adopt
    assert "too few" in verdict.reasons[0]
    one_person = decide_without_targets([risks(0, 6)], [risks(3.0, 6)], ["a"] * 6, KEPT)
    assert not one_person.adopt


def test_chance_is_kept_out():
    shipped = risks(0.0)
    mixed = [one if unit % 2 else other for unit, (one, other) in enumerate(zip(risks(2.5), risks(-2.0), strict=True))]
    verdict = decide_without_targets([shipped], [mixed], range(6), KEPT)
    assert not verdict.adopt
    assert any("chance" in reason for reason in verdict.reasons)


def test_a_second_spectrum_must_agree():
    shipped = risks(0.0)
    verdict = decide_without_targets([shipped, shipped], [risks(1.0), risks(-1.0)], range(6), KEPT)
    assert not verdict.adopt
    assert any("depends on the noise assumed" in reason and "spectrum 2" in reason for reason in verdict.reasons)


def test_guards_must_hold():
    guards = [Guard("mean of fat in HU", -100.0, -102.0, 1.0), guard_kept(0.25, 0.27)]
    verdict = judged(risks(1.0), guards=guards)
    assert not verdict.adopt
    assert verdict.reasons == ("mean of fat in HU goes from -100 to -102 (allowed 1)",)
    assert judged(risks(1.0), guards=[Guard("flags", 5, 1, 0, upward_only=True)]).adopt


def test_negative_errors_are_no_gain():
    impossible = [Risk(400.0, 0.0, 900.0)] * 6
    verdict = judged(impossible)
    assert not verdict.adopt
    assert any("negative" in reason for reason in verdict.reasons)


def test_counts_must_fit():
    with pytest.raises(ValueError, match="same units"):
        decide_without_targets([risks(0.0)], [risks(0.0, 5)], range(6), KEPT)
