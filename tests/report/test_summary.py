import math

import pytest
from scipy import stats

from medrestore_monai.report import SliceScore, findings, infinite, markdown, summarize
from medrestore_monai.report.tables import rounded

MODEL = "model"
# psnr of (input, model) for the slices of two patients; the second one has two volumes
VALUES = {
    ("a", "a/1"): [(20.0, 23.0), (22.0, 24.0), (24.0, 29.0)],
    ("b", "b/1"): [(30.0, 31.0)],
    ("b", "b/2"): [(28.0, 29.5)],
}


def scores(values=VALUES):
    result = []
    for (patient, volume), pairs in values.items():
        for number, pair in enumerate(pairs):
            for method, psnr in zip(("input", MODEL), pair, strict=True):
                at = ("CT", patient, volume, number, method, "whole slice")
                result.append(SliceScore(*at, values={"psnr": psnr, "rmse": 100 - psnr}))
    return result


def rows(values=VALUES, **options):
    return {(row.average, row.method): row for row in summarize(scores(values), **options)}


def test_means_by_hand():
    found = rows()
    assert found["slice", "input"].scores["psnr"].mean == pytest.approx((20 + 22 + 24 + 30 + 28) / 5)
    assert found["volume", "input"].scores["psnr"].mean == pytest.approx((22 + 30 + 28) / 3)
    assert (found["slice", MODEL].count, found["volume", MODEL].count) == (5, 3)
    assert {(row.patients, row.unit) for row in found.values()} == {(2, "patients")}


def test_p_values_are_over_patients_and_against_the_method_named():
    found = rows()
    means = [[22.0, 29.0], [(23 + 24 + 29) / 3, 30.25]]
    expected = stats.ttest_rel(*means).pvalue
    assert found["slice", MODEL].scores["psnr"].p == pytest.approx(expected)
    assert math.isnan(found["slice", "input"].scores["psnr"].p)
    turned = rows(against=MODEL)
    assert turned["slice", "input"].scores["psnr"].p == pytest.approx(expected)
    with pytest.raises(ValueError, match="no method 'other'"):
        rows(against="other")


def test_units_of_few_images_are_said():
    assert rows({("b", "b/1"): [(1.0, 2.0)], ("b", "b/2"): [(2.0, 3.0)]})["slice", MODEL].unit == "volumes"
    single = rows({("a", "a"): [(1.0, 2.0), (2.0, 4.0)]})
    assert single["slice", MODEL].unit == "slices"
    assert "Slices of one volume are not independent" in markdown({}, list(single.values()), [])
    assert "Of 2 patients only" in markdown({}, list(rows().values()), [])
    alone = rows({("a", "a"): [(1.0, 2.0)]})["slice", MODEL].scores["psnr"]
    assert math.isnan(alone.lower)
    assert math.isnan(alone.p)


def test_what_does_not_beat_its_input_is_said():
    better = findings(summarize(scores()), [MODEL])
    assert better == [
        f"{MODEL} is better than its input, but not significantly so (CT, whole slice, {name})."
        for name in ("psnr", "rmse")
    ]
    worse = findings(summarize(scores({("a", "a"): [(20.0, 19.0)], ("b", "b"): [(20.0, 20.5)]})), [MODEL])
    assert worse[0] == f"{MODEL} does not beat its input (CT, whole slice, psnr)."
    sure = {(patient, patient): [(20.0, 25.0 + 0.1 * number)] for number, patient in enumerate("abcd")}
    assert findings(summarize(scores(sure)), [MODEL]) == []


def test_a_model_is_held_against_the_best_classical_baseline_and_no_oracle():
    def of(method, psnr):
        return [SliceScore("PT", p, p, 0, method, "whole slice", {"psnr": psnr + n}) for n, p in enumerate("abc")]

    others = {"input": 20.0, "gaussian": 25.0, "gaussian_3d": 27.0, "gaussian_3d (oracle)": 30.0}
    rows = [one for method, psnr in others.items() for one in of(method, psnr)]
    assert findings(summarize(rows + of(MODEL, 28.0)), [MODEL]) == [
        f"{MODEL} is better than the best classical baseline, gaussian_3d (PT, whole slice, psnr)."
    ]
    assert findings(summarize(rows + of(MODEL, 26.0)), [MODEL]) == [
        f"{MODEL} is not better than gaussian_3d (PT, whole slice, psnr)."
    ]


def test_a_slice_with_an_infinite_score_counts_for_no_method():
    some = {**VALUES, ("a", "a/2"): [(math.inf, math.inf)], ("b", "b/3"): [(40.0, math.inf), (26.0, 25.0)]}
    found = rows(some)
    assert found["slice", "input"].scores["psnr"].mean == pytest.approx((20 + 22 + 24 + 30 + 28 + 26) / 6)
    assert found["volume", "input"].scores["psnr"].mean == pytest.approx((22 + 30 + 28 + 26) / 4)
    assert found["volume", MODEL].scores["psnr"].mean == pytest.approx((76 / 3 + 31 + 29.5 + 25) / 4)
    assert math.isfinite(found["slice", MODEL].scores["psnr"].p)
    # RMSE is 100 - PSNR here
    assert infinite(scores(some)) == [
        f"2 slices are left out of {name}, which is infinite there for one method or more (CT, whole slice)."
        for name in ("psnr", "rmse")
    ]
    assert infinite(scores()) == []


def test_a_method_that_is_exact_everywhere_is_infinite_and_compared_with_nothing():
    exact = {(patient, patient): [(math.inf, 20.0)] for patient in "abcd"}
    assert rows(exact)["slice", "input"].scores["psnr"].mean == math.inf
    assert rows(exact)["slice", MODEL].scores["psnr"].mean == 20
    assert infinite(scores(exact)) == []
    both = {place: [(math.inf, math.inf)] for place in exact}
    for values in (exact, both):
        assert not [text for text in findings(summarize(scores(values)), [MODEL]) if "psnr" in text]


def test_empty_slices_do_not_make_a_bad_model_look_good():
    values = {(p, p): [(30.0, 25.0 + n / 9)] + [(math.inf, math.inf)] * (n == 0) for n, p in enumerate("abcd")}
    assert f"{MODEL} does not beat its input (CT, whole slice, psnr)." in findings(summarize(scores(values)), [MODEL])


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        (33.456, "psnr", "33.46"),
        (0.98765, "ssim", "0.9877"),
        (-0.00001, "ssim", "0.0000"),
        (0.098765, "rmse", "0.09877"),
        (123.456, "rmse", "123.5"),
        (2.5926, "delta_e", "2.593"),
        (0.0312, "p", "0.031"),
        (0.00003, "p", "<0.0001"),
        (float("inf"), "psnr", "inf"),
        (float("nan"), "p", ""),
    ],
)
def test_digits(value, name, text):
    assert rounded(value, name) == text
