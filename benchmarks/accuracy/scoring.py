"""Rules by which an answer is scored, each as its benchmark's own evaluation has it.

A rule gives points in [0, 1] for an answer and the accepted ones. `exact`, `choice` and `yes-no`
give 0 or 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from .questions import is_right, normalise

YES_NO = "yes-no"
NEEDED = 3
"""Humans whose answer it must be for all of a VQA point."""
LEAST_ANLS = 0.5
"""Similarity from which on a reading counts: a worse one is another word."""
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
LETTER = re.compile(
    r"""
    ^\W*(?P<alone>[A-Za-z])\W*$                                         # B   (b)   B.
    | ^\W*(?P<first>[A-Z])[).:,]                                        # B) red   (B) red   B: red
    | \b(?:[Aa]nswer|[Oo]ption|[Cc]hoice)(?:\ is)?\W+(?P<named>[A-Z])\b  # The answer is (B)
    """,
    re.VERBOSE,
)
"""How models name one of several choices."""


class Scored(Protocol):
    """What can be scored."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def answers(self) -> tuple[str, ...]:
        """Accepted answers."""

    @property
    def rule(self) -> str:
        """One of RULES."""


def points(rule: str, answer: str, accepted: Sequence[str]) -> float:
    """Points of an answer by the rule of that name."""
    return float(RULES[rule](answer, accepted))


def check(item: Scored) -> None:
    """Raise ValueError if a question's rule is none, or cannot score by its accepted answers."""
    if item.rule not in RULES:
        known = ", ".join(RULES)
        raise ValueError(f"question {item.id} has rule {item.rule!r}; a rule is one of {known}")
    if item.rule == YES_NO and not {*map(str.lower, item.answers)} <= {"yes", "no"}:
        raise ValueError(
            f"question {item.id} has rule yes-no and answer {item.answers[0]!r}, not yes or no"
        )


def anls(answer: str, accepted: Sequence[str]) -> float:
    """Likeness in letters to the nearest accepted answer, and 0 below a half.

    Average normalised Levenshtein similarity, of DocVQA and ST-VQA (Biten et al., ICCV 2019):
    1 minus the edits over the length of the longer text, without regard to case and outer spaces.
    """
    return max(_likeness(answer.strip().lower(), text.strip().lower()) for text in accepted)


def vqa(answer: str, accepted: Sequence[str]) -> float:
    """VQA accuracy: a third of a point for each human with this answer, and a point at most.

    Args:
        accepted: one answer a human, the same ones repeated; VQAv2, TextVQA and VizWiz have ten.

    As in the official evaluation it is the mean over all choices of all humans but one. Answers
    are compared without case, articles, punctuation and apostrophes, and with digits for the
    numbers up to ten, which is the official way but for its list of misspelt contractions.
    """
    given, said = _vqa_form(answer), [_vqa_form(text) for text in accepted]
    same = said.count(given)
    without_one = [min(1.0, (same - (text == given)) / NEEDED) for text in said]
    return sum(without_one) / len(without_one)


def choice(answer: str, accepted: Sequence[str]) -> bool:
    """Whether it names the letter of an accepted choice, or is an accepted text itself."""
    found = LETTER.search(answer.strip())
    letter = next(filter(None, found.groups())).upper() if found else None
    return letter in accepted or is_right(answer, accepted)


def yes_no(answer: str, accepted: Sequence[str]) -> bool:
    """Whether the first yes or no in it, or a not as a no, is the accepted answer."""
    found = re.search(r"\b(yes|no|not)\b", answer.lower())
    return found is not None and found[0].replace("not", "no") in map(str.lower, accepted)


RULES: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact": is_right,
    "anls": anls,
    "vqa": vqa,
    "choice": choice,
    YES_NO: yes_no,
}


IN_PARTS = ("anls", "vqa")
"""Rules that also give parts of a point."""


def _likeness(text: str, other: str) -> float:
    longer = max(len(text), len(other))
    likeness = 1 - _edits(text, other) / longer if longer else 1.0
    return likeness if likeness >= LEAST_ANLS else 0.0


def _edits(text: str, other: str) -> int:
    """The fewest letters to insert, delete and replace that make one text the other."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(text, start=1):
        above, row[0] = row[0], i
        for j, wanted in enumerate(other, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (letter != wanted))
    return row[-1]


def _vqa_form(text: str) -> str:
    words = normalise(text).replace("'", "").split()
    return " ".join(str(DIGITS.index(word)) if word in DIGITS else word for word in words)
