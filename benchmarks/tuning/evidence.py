"""How much accuracy a pruning costs, and from when on it is shown to cost no more than a limit.

For each question the loss is the unpruned score minus the pruned one, a number in [-1, 1]. A stake
is bet on the next question losing less than the limit, at odds that are fair if the mean loss is
the limit: it becomes 1 + f * (limit - loss) / (1 - limit) times itself. If the mean loss is the
limit or more, the stake does not grow in the mean, so from 1 it ever reaches 1 / error with a
probability of at most `error` (Ville's inequality). One may therefore look after every question,
and stop whenever one likes. Source: Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting", 2024 (arXiv 2010.09686). Differs: f is one constant, chosen beforehand for
the number of questions that there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

STEPS = 60
"""Halvings of an interval in which a number is looked for."""


def fewest_questions(limit: float, error: float) -> int:
    """Questions that show a mean loss below `limit` if not one of them is lost."""
    return math.ceil(math.log(1 / error) / -math.log1p(-limit))


@dataclass(frozen=True)
class Bet:
    """A bet that the mean loss is below a limit.

    Args:
        limit: mean loss in (0, 1), 0.01 for one point.
        error: probability in (0, 1) with which the bet may be won although the mean loss is the
            limit or more.
        num_questions: how many losses there will be at most.
    """

    limit: float
    error: float
    num_questions: int

    @cached_property
    def fraction(self) -> float:
        """The f of the stake, in (0, 1].

        It is the best one for the largest share of lost questions that can still be shown to be
        below the limit with all questions (the f of Wald's test of that share against the limit).
        """
        low, high = 0.0, self.limit
        if self.num_questions * _divergence(low, self.limit) <= math.log(1 / self.error):
            return 1.0
        for _ in range(STEPS):
            middle = (low + high) / 2
            enough = self.num_questions * _divergence(middle, self.limit) > -math.log(self.error)
            low, high = (middle, high) if enough else (low, middle)
        return 1 - low / self.limit

    def won_at(self, losses: np.ndarray) -> int | None:
        """After how many of the losses [n] the bet is won; None if it is not."""
        won = self._stakes(losses, self.limit) >= math.log(1 / self.error)
        return int(won.argmax()) + 1 if won.any() else None

    def is_refuted(self, losses: np.ndarray) -> bool:
        """Whether the opposite bet is won, that the mean loss is above the limit."""
        return bool((self._stakes(-losses, -self.limit) >= -math.log(self.error)).any())

    def is_hopeless(self, losses: np.ndarray, best: np.ndarray) -> bool:
        """Whether the bet cannot be won any more.

        Args:
            losses: [n] so far.
            best: [m] the smallest losses that the other questions can have.
        """
        return self.won_at(np.concatenate([losses, best])) is None

    def at_most(self, losses: np.ndarray) -> float:
        """The loss that the mean is below with a probability of 1 - error, after any number.

        It is the smallest limit for which the bet would be won.
        """
        low, high = -1.0, 1.0
        for _ in range(STEPS):
            middle = (low + high) / 2
            won = (self._stakes(losses, middle) >= -math.log(self.error)).any()
            low, high = (low, middle) if won else (middle, high)
        return high

    def at_least(self, losses: np.ndarray) -> float:
        """The loss that the mean is above with a probability of 1 - error, after any number."""
        return -self.at_most(-losses)

    def would_need(self, losses: np.ndarray) -> int | None:
        """About how many questions would win the bet if they go on like these; None: no number."""
        if losses.mean() >= self.limit:
            return None
        fractions = np.linspace(0, 1, 1001)[1:-1, None]
        growth = np.log1p(fractions * (self.limit - losses) / (1 - self.limit)).mean(1)
        fewest = fewest_questions(self.limit, self.error)
        return max(fewest, math.ceil(-math.log(self.error) / float(growth.max())))

    def _stakes(self, losses: np.ndarray, limit: float) -> np.ndarray:
        """Logarithm [n] of what a stake of 1 has become after each loss."""
        with np.errstate(divide="ignore"):  # a stake may be lost whole
            growth: np.ndarray = np.log1p(self.fraction * (limit - losses) / (1 - limit))
        return growth.cumsum()


def _divergence(share: float, limit: float) -> float:
    """Kullback-Leibler divergence of two coins, in nats; `share` in [0, limit]."""
    rest = (1 - share) * math.log((1 - share) / (1 - limit))
    return rest + (share * math.log(share / limit) if share else 0.0)
