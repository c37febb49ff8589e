"""Whether an answer is right, and how sure one can be of a share of right answers."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def is_right(answer: str, accepted: Sequence[str]) -> bool:
    """Whether it equals an accepted answer but for case, articles and punctuation."""
    return normalise(answer) in {normalise(text) for text in accepted}


def normalise(text: str) -> str:
    """Lower case, without articles, punctuation at the ends of words, and extra spaces."""
    words = [word.strip(string.punctuation) for word in text.lower().split()]
    return re.sub(r"\b(a|an|the)\b", " ", " ".join(words)).strip()


class Share(NamedTuple):
    """A share of right answers with its interval."""

    value: float
    low: float
    high: float


def share(right: np.ndarray) -> Share:
    """Share of True in a bool array [n], with Wilson's 95 % interval."""
    test = stats.binomtest(int(right.sum()), len(right))
    low, high = test.proportion_ci(CONFIDENCE, method="wilson")
    return Share(float(right.mean()), float(low), float(high))


class Difference(NamedTuple):
    """How much larger one share is than another on the same questions."""

    value: float
    low: float
    high: float
    p: float
    """Exact McNemar: the chance of a split as uneven among questions that only one got right."""


def paired_difference(right: np.ndarray, other: np.ndarray) -> Difference:
    """Compare two bool arrays [n] on the same questions: mean(right) - mean(other).

    The interval is the one of Agresti and Min (2005), which holds for few differences too: the
    normal one after half a question is added to each of the four outcomes.
    """
    gained, lost = int((right & ~other).sum()), int((other & ~right).sum())
    total = len(right) + 2
    middle = (gained - lost) / total
    spread = math.sqrt((gained + lost + 1) / total - middle**2)
    reach = stats.norm.ppf((1 + CONFIDENCE) / 2) * spread / math.sqrt(total)
    p = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return Difference((gained - lost) / len(right), middle - reach, middle + reach, float(p))
