"""Which findings make the light yellow or red."""

import pytest

from medrestore_monai.audit.faithfulness import Faithfulness, Flag
from medrestore_monai.audit.figures import Figure
from medrestore_monai.audit.scope import Feature, Scope
from medrestore_monai.audit.verdict import judge


def figure(name="noise SD", region="flat soft tissue", unit="HU", before=20.0, after=8.0, ci95=None):
    return Figure(name, region, unit, "", before, after, ci95=ci95)


CHANGE = Faithfulness([figure("largest change", "body", "1", None, 3.0)], 5.0)


def verdict(noise=(figure(),), sharpness=(), gain=(), bias=(), scope=Scope("in", ()), faithfulness=CHANGE):  # noqa: B008
    return judge(noise, sharpness, gain, bias, scope, faithfulness)


def flagged(z):
    return Faithfulness(CHANGE.figures, 5.0, [Flag(3, 10, 12, z, 9.0)], 1)


def ratio(after, ci95):
    return figure("50 % frequency, after over before", "skin to air, 900 HU", "1", 1.0, after, ci95)


def test_nothing_found_is_green():
    assert verdict().light == "green"


@pytest.mark.parametrize(
    ("light", "reason", "parts"),
    [
        ("yellow", "soft tissue moved by +4.0 HU", {"bias": [figure("mean", "soft tissue", before=50, after=54)]}),
        ("red", "fat moved by -9.0 HU", {"bias": [figure("mean", "fat", before=-90, after=-99)]}),
        ("green", "nothing", {"bias": [figure("mean", "bone", before=400, after=409)]}),
        ("red", "SUVpeak of hot region 1", {"bias": [figure("SUVpeak", "hot region 1", "SUV", 8, 6.5)]}),
        ("green", "nothing", {"bias": [figure("SUVmax", "hot region 1", "SUV", 8, 6.5)]}),
        ("yellow", "total activity", {"bias": [figure("total activity", "whole volume", "Bq", 100, 95)]}),
        ("yellow", "k-space", {"bias": [figure("residual over the measured k-space", "", "1", 0.0, 0.1)]}),
        ("yellow", "brighter, |z| = 6.0 in slice 4", {"faithfulness": flagged(6.0)}),
        ("red", "darker, |z| = 11.0", {"faithfulness": flagged(-11.0)}),
        ("yellow", "blurred: 0.88", {"sharpness": [ratio(0.88, (0.82, 0.94))]}),
        ("green", "nothing", {"sharpness": [ratio(0.88, (0.70, 1.06))]}),
        ("red", "weakened", {"gain": [figure("signal gain", "0 to 0.1/mm", "1", 1.0, 0.6)]}),
        ("red", "kernel", {"scope": Scope("out", [Feature("kernel cutoff", "5", "1 to 2", "out")])}),
        ("yellow", "pixel", {"scope": Scope("near the edge", [Feature("pixel size", "1", "2", "near the edge")])}),
        ("yellow", "coarser", {"noise": [figure("mean frequency of noise", "", "1/mm", 0.3, 0.2)]}),
        ("yellow", "the noise is 1.20 of before", {"noise": [figure(before=10.0, after=12.0)]}),
        ("green", "nothing", {"noise": [figure(unit="", before=10.0, after=12.0)]}),  # a sharper MR or picture
        ("yellow", "noise could not", {"noise": [Figure("noise SD", "", "HU", "", not_measured="no region")]}),
    ],
    ids=str,
)
def test_each_finding_has_its_color_and_its_reason(light, reason, parts):
    found = verdict(**parts)
    assert found.light == light
    assert any(reason in text for text in found.reasons)


def test_the_worst_finding_counts_and_comes_first():
    found = verdict(bias=[figure("mean", "soft tissue", before=50, after=54)], faithfulness=flagged(20))
    assert found.light == "red"
    assert "|z|" in found.reasons[0]
    assert "soft tissue" in found.reasons[1]
