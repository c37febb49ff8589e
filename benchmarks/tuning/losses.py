"""What each question loses by each pruning: asked where nobody knows yet, kept in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..accuracy.asking import Asked, Endpoint, ask_missing, read_answers
from ..accuracy.scoring import points
from ..accuracy.settings import WHOLE, Setting


class Question(Asked, Protocol):
    """What is asked, and the answers that count as right."""

    @property
    def answers(self) -> tuple[str, ...]:
        """Accepted answers; none where the unpruned answer is the truth."""

    @property
    def rule(self) -> str:
        """By which its answer is scored, one of scoring.RULES."""


class Losses:
    """Scores of answers, asked of an endpoint where the file does not have them.

    Args:
        path: file of JSON lines, one an answer; what is in it is not asked again.
        concurrency: requests at once.
    """

    def __init__(self, endpoint: Endpoint, path: Path, concurrency: int) -> None:
        self.endpoint, self.path, self.concurrency = endpoint, path, concurrency
        self.known = read_answers(path)

    async def ask(
        self,
        questions: Iterable[Question],
        settings: Sequence[Setting],
        answered: Callable[[], object] = lambda: None,
    ) -> None:
        """Have an answer to each question unpruned and in each setting.

        Args:
            answered: called after each answer that was not known.

        Raises:
            ValueError: a question is refused.
            openai.OpenAIError: the endpoint does not answer.
        """
        pairs = [(question, s) for question in questions for s in (WHOLE, *settings)]
        arguments = (self.endpoint, pairs, self.known, self.path, self.concurrency)
        await ask_missing(*arguments, answered)

    async def check_truth(self, questions: Sequence[Question]) -> None:
        """Raise ValueError if not one of the unpruned answers is right: nothing could be lost."""
        await self.ask(questions, [])
        if not self.right(questions):
            first = questions[0]
            answer = self.known[first.id, str(WHOLE)]["answer"]
            raise ValueError(
                f"not one of {len(questions)} unpruned answers is right, so pruning could lose "
                f"nothing. Question {first.id} is answered {answer!r}, where "
                f"{first.answers[0]!r} is right; ask for answers in the form of the right ones"
            )

    def right(self, questions: Sequence[Question]) -> float:
        """The share of questions that are answered right unpruned."""
        return float(np.mean([self._score(question, WHOLE) for question in questions]))

    def of(self, questions: Sequence[Question], setting: Setting) -> np.ndarray:
        """The losses [n] of questions that have been asked unpruned and in the setting."""
        return np.array([self._score(q, WHOLE) - self._score(q, setting) for q in questions])

    def smallest(self, questions: Sequence[Question]) -> np.ndarray:
        """The smallest losses [n] that questions can have in settings not asked yet."""
        return np.array([self._score(q, WHOLE) - 1.0 for q in questions])

    def prompt_tokens(self, questions: Sequence[Question], setting: Setting) -> float:
        """Mean length of the prompts."""
        return float(np.mean([self.known[q.id, str(setting)]["prompt_tokens"] for q in questions]))

    def _score(self, question: Question, setting: Setting) -> float:
        """Points of an answer, in [0, 1]; 0 for one that is not known."""
        if not question.answers and setting == WHOLE:
            return 1.0
        if (answer := self.known.get((question.id, str(setting)))) is None:
            return 0.0
        accepted = question.answers or [self.known[question.id, str(WHOLE)]["answer"]]
        return points(question.rule, answer["answer"], accepted)
