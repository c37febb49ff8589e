"""Which text conditions which image or video in a prompt that was never messages (`LLM.generate`).

The chat template is rendered once around marks; what it wrote between them are the words that open
a user's and an assistant's turn. A prompt written after that template is then cut at those words.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from .queries import bounded

MARKS = ("first question mark", "first answer mark", "second question mark")
"""Texts of a user's, an assistant's and another user's turn, rendered to learn the template."""


@dataclass(frozen=True)
class Scaffolding:
    """The words that open a turn, such as "USER:" and "ASSISTANT:"; "" where there are none."""

    user: str
    assistant: str


def learn_scaffolding(rendered: str, token: str) -> Scaffolding:
    """Read the words from MARKS as the chat template rendered them.

    Args:
        token: what stands for the item before the first of them.
    """
    question, answer, next_question = MARKS
    before, _, rest = rendered.partition(question)
    to_assistant, _, rest = rest.partition(answer)
    to_user = rest.partition(next_question)[0]
    # Before the first turn there may be a system prompt, before the second the end of an answer.
    backwards = (before.partition(token)[0][::-1], to_user[::-1])
    opening = os.path.commonprefix(backwards)[::-1]
    return Scaffolding(opening.strip(), to_assistant.strip())


def raw_item_queries(
    text: str, tokens: Mapping[str, str], scaffolding: Scaffolding
) -> dict[str, list[str]]:
    """Return the conditioning texts by modality, in prompt order.

    A prompt that does not follow the template is one run: all of its text counts.

    Args:
        text: the prompt, with one token an item.
        tokens: what stands for an item, by modality.
    """
    queries: dict[str, list[str]] = {modality: [] for modality in tokens}
    for run in _runs(text, scaffolding):
        query = run
        for token in tokens.values():
            query = query.replace(token, "")
        query = bounded(query.strip())
        for modality, token in tokens.items():
            queries[modality] += [query] * run.count(token)
    return queries


def _runs(text: str, scaffolding: Scaffolding) -> list[str]:
    """What users said between assistants' turns."""
    opening, answer = scaffolding.user, scaffolding.assistant
    if not answer or not opening or opening not in text:
        return [text]
    # An assistant's words run until the next user's turn; so does a system prompt.
    stretches = [stretch.partition(opening)[2] for stretch in text.split(answer)]
    return [stretch.replace(opening, "\n") for stretch in stretches]
