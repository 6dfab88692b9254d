import numpy as np
import pytest
from scipy import stats

from medrestore_monai.report.significance import bootstrap_interval, paired_p_value


def test_interval_of_a_normal_mean_is_close_to_that_of_theory():
    values = np.random.default_rng(0).normal(30, 2, 200)
    lower, upper = bootstrap_interval(values, range(200), seed=0)
    expected = stats.t.interval(0.95, 199, loc=values.mean(), scale=values.std(ddof=1) / 200**0.5)
    assert (lower, upper) == pytest.approx(expected, abs=0.06)
    assert (lower, upper) == bootstrap_interval(values, range(200), seed=0)
    assert (lower, upper) != bootstrap_interval(values, range(200), seed=1)


def test_interval_agrees_with_scipy_on_groups_of_one():
    values = np.random.default_rng(1).gamma(2, 3, 40)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=0, n_resamples=9999).confidence_interval
    ours = bootstrap_interval(values, range(40), resamples=9999)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.1)


def test_groups_are_drawn_as_a_whole():
    """Slices of one patient do not make it surer, and a patient of more slices counts for more."""
    once = bootstrap_interval([1.0, 2.0, 4.0, 7.0], "abcd")
    assert bootstrap_interval([1.0, 2.0, 4.0, 7.0] * 10, "abcd" * 10) == pytest.approx(once)
    assert sum(bootstrap_interval([1, 1, 1, 2, 3, 5], "aaabcd")) < sum(bootstrap_interval([1, 2, 3, 5], "abcd"))


def test_three_patients_have_no_interval():
    """Its ends would be the least and the largest: one draw in 27 is of one patient alone."""
    assert np.isnan(bootstrap_interval([1.0, 2.0, 4.0] * 5, "abc" * 5)).all()


def test_p_value_is_that_of_a_paired_test_on_group_means():
    rng = np.random.default_rng(2)
    before = rng.normal(25, 3, 12)
    after = before + rng.normal(0.5, 1, 12)
    assert paired_p_value(after, before, range(12)) == pytest.approx(stats.ttest_rel(after, before).pvalue)
    groups = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 4]
    means = [[x[np.array(groups) == g].mean() for g in range(5)] for x in (after, before)]
    assert paired_p_value(after, before, groups) == pytest.approx(stats.ttest_rel(*means).pvalue)


def test_no_answer_where_there_is_none():
    assert np.isnan(bootstrap_interval([1.0, 2.0], ["a", "a"])).all()
    assert np.isnan(bootstrap_interval([1.0, np.inf], ["a", "b"])).all()
    assert np.isnan(paired_p_value([1.0, 2.0], [0.0, 0.0], ["a", "a"]))
    assert np.isnan(paired_p_value([np.inf, 2.0], [np.inf, 0.0], ["a", "b"]))
    assert paired_p_value([1.0, 2.0], [1.0, 2.0], ["a", "b"]) == 1
    assert paired_p_value([2.0, 3.0], [1.0, 2.0], ["a", "b"]) == 0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="one group for each"):
        bootstrap_interval([1.0], ["a", "b"])
    with pytest.raises(ValueError, match="level must be"):
        bootstrap_interval([1.0], ["a"], level=95)
    with pytest.raises(ValueError, match="as many values of both"):
        paired_p_value([1.0], [1.0, 2.0], ["a", "b"])
