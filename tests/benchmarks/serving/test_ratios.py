"""Percentiles and intervals."""

import math

import numpy as np
import pytest

from vllm_script.benchmarks.serving.ratios import paired_ratio, percentiles


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


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        drift = rng.normal(0, 0.3, 6)
        above = np.exp(drift + rng.normal(0.1, 0.02, 6))
        below = np.exp(drift + rng.normal(0, 0.02, 6))
        ratio = paired_ratio(list(above), list(below))
        covered += ratio.low <= math.exp(0.1) <= ratio.high
    assert covered / 1000 == pytest.approx(0.95, abs=0.02)
