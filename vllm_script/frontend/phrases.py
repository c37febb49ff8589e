"""Phrases that say how to answer. They are no part of what to look for in a picture.

Benchmarks and careful users put one behind nearly every question, and it is the same for all of
them: taken as part of the question, it draws every selection towards the same patches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ANSWER_PHRASES = (
    # Behind the questions of GQA, TextVQA, VQAv2, POPE, MME, VizWiz and others, as the papers of
    # LLaVA and lmms-eval put them.
    "Answer the question using a single word or phrase",
    "Answer the question with a single word or phrase",
    "Answer the question with a single word",
    "Answer the question with a short phrase",
    "Answer with a single word or phrase",
    "When the provided information is insufficient, respond with 'Unanswerable'",
    "Please answer yes or no",
    "Please answer with yes or no",
    "Answer yes or no",
    "Answer with yes or no",
    # Behind the options of MMBench, ScienceQA, SEED-Bench, MMMU and others.
    "Answer with the option's letter from the given choices directly",
    "Answer with the option letter from the given choices directly",
    "Answer the question with the option's letter from the given choices directly",
    "Answer with the letter of the correct option",
    "Answer with the letter only",
    "Please select the correct answer from the options above",
    "Respond with only the letter of the correct option",
    "Only give the best option",
    # Of people.
    "Answer in one word",
    "Answer with one word",
    "Answer with a single word",
    "Answer with a number",
    "Answer with one number",
    "Answer in one sentence",
    "Answer briefly",
    "Be brief",
    "Be concise",
    "Explain your answer",
    "Explain your reasoning",
    "Think step by step",
    "Let's think step by step",
)
"""What counts as such a phrase where the operator gives no list."""

_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")


class AnswerPhrases:
    """Takes phrases out of texts, whatever their case, spaces and quotes, and what is around them.

    A "please" or "and" goes with them, and so does punctuation behind.

    Args:
        phrases: each as people would write it.
    """

    def __init__(self, phrases: Iterable[str]) -> None:
        # The longest first, so that none leaves the rest of one that begins like it.
        plain = sorted((_plain(each).rstrip(" .,:;!") for each in phrases), key=len, reverse=True)
        some = "|".join(r"\s+".join(map(re.escape, each.split())) for each in plain if each)
        # A phrase is a sentence, or at its end: "explain your answer sheet" says what to look for.
        whole = (
            rf"[(*_]*(?<!\w)(?:(?:and|please)[\s,]+)*(?:{some})(?:[\s,]+please)?[)*_]*"
            r"(?:[.,:;!"
            "\u3002"
            r"]+[)*_]*|(?=\s*(?:\n|$)))"
        )
        self._pattern = re.compile(whole, re.I) if some else None

    def taken_out_of(self, text: str) -> str:
        """Return the text without the phrases; "" where it is nothing else."""
        if self._pattern is None:
            return text.strip()
        # The quotes that are looked for have the places of those in the text: one for one.
        pieces, end = [], 0
        for match in self._pattern.finditer(_plain(text)):
            pieces.append(text[end : match.start()])
            end = match.end()
        pieces.append(text[end:])
        left = "".join(pieces).strip()
        return left if re.search(r"\w", left) else ""


def _plain(text: str) -> str:
    """The text with straight quotes."""
    return text.translate(_QUOTES)
