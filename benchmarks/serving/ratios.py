"""Percentiles, and ratios of what was measured in pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
PERCENTILES = (50, 90, 99)
MIN_PAIRS = 3
"""Fewer say nothing about their spread."""


class Ratio(NamedTuple):
    """Geometric mean of paired ratios, with its 95 % interval (nan of fewer than MIN_PAIRS)."""

    value: float
    low: float
    high: float


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Of seconds, in milliseconds: {"p50": ..., "p90": ..., "p99": ...}."""
    return {f"p{p}": round(1000 * float(np.percentile(values, p)), 3) for p in PERCENTILES}


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """`above` to `below`, pair by pair: Student's interval on the logarithms."""
    logs = np.log(above) - np.log(below)
    middle, low, high = float(logs.mean()), math.nan, math.nan
    if len(logs) >= MIN_PAIRS:
        error = float(logs.std(ddof=1)) / math.sqrt(len(logs))
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1)) * error
        low, high = math.exp(middle - reach), math.exp(middle + reach)
    return Ratio(math.exp(middle), low, high)
