"""Look for the smallest keep ratio that is shown to lose no more than a limit.

A part of the questions compares the methods. It settles which method is tried in which order, and
no more: from the smallest keep ratio up, methods that are clearly worse than the best are dropped,
until the first that is left seems to keep to the limit. The other questions test that method, from
the largest keep ratio down, each with the bet of evidence.py, and end with the first that does not
win it.

So a setting is tested only where those before it were shown, and the order does not depend on the
questions that test it. Then each bet may be wrong with the whole error, and the probability
that any setting is shown which loses more than the limit is still at most `error`. This is the
fixed-sequence testing of Angelopoulos et al., "Learn then Test", 2021 (arXiv 2110.01052).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..accuracy.settings import Setting
from .evidence import Bet, fewest_questions
from .losses import Losses, Question

BLOCK = 16
"""Questions that are asked before the next look."""
COMPARING, MOST_COMPARING = 1 / 5, 100
"""Share of the questions that compares methods, and how many they are at most."""
CLEARLY = 0.05
"""A method is dropped if it would be behind the best one as often with this probability, were both
equally good."""
ORDER = 0
"""Seed of the order in which questions are asked: those of a file may be sorted."""


@dataclass(frozen=True)
class Tried:
    """A setting, and what was lost by it."""

    setting: Setting
    losses: np.ndarray
    """Loss [n] of each question in the order asked."""
    shown: bool = False
    """Whether the loss is shown to be at most the limit."""


@dataclass
class Search:
    """What is looked for among which settings, and what has been found.

    Args:
        settings: those to choose from, of some methods at some keep ratios.
        limit: mean loss, 0.01 for one point.
        error: probability with which a setting may be shown although it loses more.
        looked: called after each answer, with a line about what is being tried.
    """

    losses: Losses
    questions: Sequence[Question]
    settings: Sequence[Setting]
    limit: float
    error: float
    looked: Callable[[str], object] = lambda line: None
    compared: dict[Setting, Tried] = field(default_factory=dict)
    tested: list[Tried] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Divide the questions.

        Raises:
            ValueError: there are too few to show anything.
        """
        total, fewest = len(self.questions), fewest_questions(self.limit, self.error)
        check_enough(total, self.limit, self.error)
        mixed = random.Random(ORDER).sample(list(self.questions), total)
        comparing = min(int(COMPARING * total), MOST_COMPARING)
        if len(self.methods) == 1 or total - comparing < fewest:
            comparing = 0
        self.comparing, self.testing = mixed[:comparing], mixed[comparing:]
        self.bet = Bet(self.limit, self.error, len(self.testing))

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order of the settings."""
        return list(dict.fromkeys(setting.method for setting in self.settings))

    @property
    def chosen(self) -> Tried | None:
        """The smallest keep ratio that was shown; None while there is none."""
        return next((tried for tried in reversed(self.tested) if tried.shown), None)

    @property
    def forgiven(self) -> float:
        """The most that a method may lose of the comparing questions to seem within the limit."""
        return self.limit * len(self.comparing)

    async def run(self) -> None:
        """Compare the methods, and test the best."""
        for setting in await self._order_of_tests():
            tried = await self._test(setting)
            self.tested.append(tried)
            if not tried.shown:
                return

    def _by_ratio(self, method: str) -> list[Setting]:
        """The settings of a method, from the largest keep ratio down."""
        own = [setting for setting in self.settings if setting.method == method]
        return sorted(own, key=lambda setting: -setting.keep_ratio)

    async def _order_of_tests(self) -> list[Setting]:
        """The settings of the method to test, in the order of the tests.

        It is the first method that is not clearly worse than another one. The order goes down in
        steps that halve the way to the keep ratio where the method seems to keep to the limit, and
        from there through every one.
        """
        left = self.methods
        if not self.comparing:
            return self._by_ratio(left[0])
        for place in reversed(range(len(self._by_ratio(left[0])))):
            left = await self._compare([self._by_ratio(method)[place] for method in left])
            own = self._by_ratio(left[0])
            if self.compared[own[place]].losses.sum() <= self.forgiven:
                break
        return [own[step] for step in _halving_steps(place)] + own[place:]

    async def _compare(self, settings: list[Setting]) -> list[str]:
        """Compare methods at one keep ratio, and return those not clearly worse than the best."""
        asked: list[Question] = []
        lost = ""
        for block in _blocks(self.comparing):
            line = f"comparing {len(settings)} methods at {settings[0].keep_ratio:g}{lost}"
            await self.losses.ask(block, settings, partial(self.looked, line))
            asked += block
            found = {setting: self.losses.of(asked, setting) for setting in settings}
            self.compared |= {setting: Tried(setting, own) for setting, own in found.items()}
            best = min(settings, key=lambda setting: found[setting].sum())
            lost = f", {best}: {self.in_points(self.compared[best])}"
            settings = [s for s in settings if not is_clearly_worse(found[s], found[best])]
            if found[best].sum() > self.forgiven:
                break  # at this keep ratio they all lose too much
        return [setting.method for setting in settings]

    async def _test(self, setting: Setting) -> Tried:
        """Bet that a setting loses less than the limit, until that is won or hopeless."""
        asked: list[Question] = []
        line, tried = f"testing {setting}", Tried(setting, np.array([]))
        for block in _blocks(self.testing):
            await self.losses.ask(block, [setting], partial(self.looked, line))
            asked += block
            losses = self.losses.of(asked, setting)
            tried = Tried(setting, losses, self.bet.won_at(losses) is not None)
            line = f"testing {setting}: {self.in_points(tried)}"
            rest = self.losses.smallest(self.testing[len(asked) :])
            lost = self.bet.is_refuted(losses) or self.bet.is_hopeless(losses, rest)
            if tried.shown or lost:
                break
        return tried

    def in_points(self, tried: Tried) -> str:
        """What was lost, of how many questions."""
        return f"{self.interval(tried)} points lost on {len(tried.losses)} questions"

    def interval(self, tried: Tried) -> str:
        """The mean loss with its bounds, in points."""
        mean, low = tried.losses.mean(), self.bet.at_least(tried.losses)
        return f"{100 * mean:.1f} ({100 * low:.1f} to {100 * self.bet.at_most(tried.losses):.1f})"


def check_enough(total: int, limit: float, error: float) -> None:
    """Raise ValueError if so many questions show nothing even where not one of them is lost."""
    fewest = fewest_questions(limit, error)
    if total < fewest:
        within = math.ceil(1000 * (1 - error ** (1 / total))) / 10 if total else 100
        raise ValueError(
            f"{total} question{'s' * (total != 1)} cannot show with {100 * (1 - error):g} % "
            f"confidence that at most {100 * limit:g} points are lost: that takes {fewest}, even "
            f"if not one is lost. Give more questions, or accept more: --loss {within:g}"
        )


def is_clearly_worse(losses: np.ndarray, best: np.ndarray) -> bool:
    """Whether losses [n] are greater than others of the same questions by more than luck.

    It is the sign test: of the questions in which the two differ, about half should go either way.
    """
    worse = int((losses > best).sum())
    differing = int((losses != best).sum())
    ways = sum(math.comb(differing, more) for more in range(worse, differing + 1))
    return bool(ways < CLEARLY * 2**differing)


def _halving_steps(end: int) -> Iterator[int]:
    """Places from 0 on whose distance to `end` is halved each time, without `end`."""
    place = 0
    while place < end:
        yield place
        place += max(1, (end - place) // 2)


def _blocks(questions: Sequence[Question]) -> Iterator[Sequence[Question]]:
    for start in range(0, len(questions), BLOCK):
        yield questions[start : start + BLOCK]
