"""Percentiles, and what was measured with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
PERCENTILES = (50, 90, 99)
MIN_PAIRS = 3
"""Fewer pairs say nothing about their spread."""
MIN_GROUPS = 10
"""Fewer groups are not bootstrapped."""
RESAMPLES = 1000


class Interval(NamedTuple):
    """A measured value, and between which bounds the true one is; nan where nobody knows."""

    value: float
    low: float
    high: float

    def shown(self, form: str, to: str = " to ") -> str:
        """The value, and in brackets its bounds if they are known; `form`: such as ".2f"."""
        if math.isnan(self.low):
            return f"{self.value:{form}}"
        return f"{self.value:{form}} ({self.low:{form}}{to}{self.high:{form}})"


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles of times, in milliseconds: {"p50": ..., "p90": ..., "p99": ...}."""
    return {f"p{p}": round(1000 * float(np.percentile(seconds, p)), 3) for p in PERCENTILES}


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Geometric mean of `above` to `below`, pair by pair: Student's interval on the logarithms."""
    logs = np.log(above) - np.log(below)
    low = high = math.nan
    if len(logs) >= MIN_PAIRS:
        bounds = stats.ttest_1samp(logs, 0).confidence_interval(CONFIDENCE)
        low, high = math.exp(bounds.low), math.exp(bounds.high)
    return Interval(math.exp(logs.mean()), low, high)


def ratio_of_sums(above: Sequence[float], below: Sequence[float]) -> Interval:
    """sum(above) / sum(below) over groups, each of which adds to a mean of many things.

    The interval is bootstrapped over groups: what belongs to one is drawn together. It is not
    known where fewer than MIN_GROUPS have anything below.
    """
    value = float(np.sum(above) / np.sum(below)) if np.sum(below) else math.nan
    if np.count_nonzero(below) < MIN_GROUPS:
        return Interval(value, math.nan, math.nan)
    bounds = stats.bootstrap(
        (np.asarray(above, float), np.asarray(below, float)),
        lambda above, below, axis: above.sum(axis) / below.sum(axis),
        n_resamples=RESAMPLES,
        paired=True,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(value, float(bounds.low), float(bounds.high))


def share(right: np.ndarray) -> Interval:
    """Share of True in a bool array [n], with Wilson's interval."""
    test = stats.binomtest(int(right.sum()), len(right))
    low, high = test.proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(right.mean()), float(low), float(high))


def mean(points: np.ndarray) -> Interval:
    """Mean of points [n], with Student's interval."""
    value, reach = float(points.mean()), math.nan
    if (n := len(points)) >= MIN_PAIRS:
        reach = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * points.std(ddof=1) / math.sqrt(n)
    return Interval(value, value - reach, value + reach)


def paired_difference(right: np.ndarray, other: np.ndarray) -> Interval:
    """mean(right) - mean(other) of bool arrays [n] about the same questions.

    The interval is the one of Agresti and Min (2005), which holds for few differences too: the
    normal one after half a question is added to each of the four outcomes.
    """
    gained, lost = _gained_and_lost(right, other)
    total = len(right) + 2
    middle = (gained - lost) / total
    spread = math.sqrt((gained + lost + 1) / total - middle**2)
    reach = stats.norm.ppf((1 + CONFIDENCE) / 2) * spread / math.sqrt(total)
    return Interval((gained - lost) / len(right), middle - reach, middle + reach)


def mcnemar(right: np.ndarray, other: np.ndarray) -> float:
    """The chance of a split as uneven among the questions that only one of both got right."""
    gained, lost = _gained_and_lost(right, other)
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _gained_and_lost(right: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    return int((right & ~other).sum()), int((other & ~right).sum())
