"""Percentiles and intervals."""

import math

import numpy as np
import pytest
from scipy import stats

from vllm_script.benchmarks.intervals import (
    Interval,
    mcnemar,
    mean,
    paired_difference,
    paired_ratio,
    percentiles,
    ratio_of_sums,
    share,
)


def test_bounds_are_shown_where_they_are_known():
    assert Interval(0.5, 0.4, 0.625).shown(".2f") == "0.50 (0.40 to 0.62)"
    assert Interval(0.5, math.nan, math.nan).shown("+.1f") == "+0.5"


def test_percentiles_are_in_milliseconds():
    assert percentiles(list(np.arange(101) / 1000)) == {"p50": 50, "p90": 90, "p99": 99}


def test_ratio_of_worked_example():
    """Logarithms 0, log 2 and log 4: mean log 2, error log 2 / sqrt 3, and t of 2 is 4.3027."""
    ratio = paired_ratio([1, 2, 4], [1, 1, 1])
    reach = 2 ** (4.3027 / math.sqrt(3))
    assert ratio == pytest.approx((2, 2 / reach, 2 * reach), rel=1e-4)


def test_drift_that_pairs_share_cancels():
    drift = [1.0, 1.5, 0.7, 2.0]
    ratio = paired_ratio([3 * d for d in drift], drift)
    assert ratio == pytest.approx((3, 3, 3))


def test_two_pairs_have_no_interval():
    assert math.isnan(paired_ratio([1, 2], [1, 1]).low)


def test_share_is_wilsons():
    # Wilson (1927) for 8 of 10, as in Newcombe (1998).
    value, low, high = share(np.array([True] * 8 + [False] * 2))
    assert value == 0.8
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)


def test_paired_difference_looks_at_what_only_one_got_right():
    right = np.array([True] * 30 + [True] * 6 + [False] * 4)
    other = np.array([True] * 30 + [False] * 6 + [True] * 0 + [False] * 4)
    gap = paired_difference(right, other)
    assert gap.value == pytest.approx(6 / 40)
    assert 0 < gap.low < gap.value < gap.high
    assert mcnemar(right, other) == pytest.approx(2 * 0.5**6)
    back = paired_difference(other, right)
    assert (back.low, back.high) == pytest.approx((-gap.high, -gap.low))


def test_equal_answers_leave_an_interval_around_zero():
    right = np.array([True] * 24)
    gap = paired_difference(right, right)
    assert gap.value == 0 and mcnemar(right, right) == 1
    assert gap.low < 0 < gap.high


def test_interval_of_differences_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        outcome = rng.choice(4, size=200, p=[0.7, 0.12, 0.06, 0.12])  # both, first, second, none
        right, other = outcome <= 1, (outcome == 0) | (outcome == 2)
        gap = paired_difference(right, other)
        covered += gap.low <= 0.06 <= gap.high
    assert covered / 500 == pytest.approx(0.95, abs=0.03)


def test_ratio_of_sums_has_the_spread_of_groups():
    """Of n groups of one thing each it is a mean: 1.96 standard errors to each side."""
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = ratio_of_sums(values, np.ones(400))
    assert found.value == pytest.approx(values.mean())
    reach = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - reach, abs=reach / 5)
    assert found.high == pytest.approx(values.mean() + reach, abs=reach / 5)


def test_what_belongs_together_is_drawn_together():
    """Ten equal things in each of forty groups say no more than one thing in each."""
    values = np.random.default_rng(1).normal(5, 2, 40)
    assert ratio_of_sums(10 * values, [10] * 40) == pytest.approx(ratio_of_sums(values, [1] * 40))


def test_few_groups_have_no_interval():
    found = ratio_of_sums([1, 0, 2], [2, 0, 2])
    assert found.value == 0.75 and math.isnan(found.low)
    assert math.isnan(ratio_of_sums([0], [0]).value)


def test_mean_of_points_has_students_interval():
    points = np.array([0.0, 0.5, 1.0, 0.5])
    bounds = stats.ttest_1samp(points, 0).confidence_interval(0.95)
    assert mean(points) == pytest.approx((0.5, bounds.low, bounds.high))
    assert mean(np.ones(5)) == (1, 1, 1)
    assert math.isnan(mean(np.ones(2)).low)
