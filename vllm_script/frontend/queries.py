"""Which text conditions which image or video.

An image belongs to the run of messages between two assistant messages, and all user text of that
run conditions it, for ever: later turns never change it, so a conversation keeps its prefix cache.
System prompts, tool output and the chat template's own words are not query text.

A prompt that was never messages (`LLM.generate` with text or token ids) is cut into the same runs:
the chat template is rendered once around marks, and what it wrote between them are the words that
open a user's and an assistant's turn.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import MAX_QUERY_CHARS

_TEXT_PARTS = ("text", "input_text")
_MEDIA_PARTS = {
    "image": ("image_url", "input_image", "image_pil", "image_embeds"),
    "video": ("video_url", "video_embeds"),
}
_MODALITY_OF = {kind: modality for modality, kinds in _MEDIA_PARTS.items() for kind in kinds}


def materialize(messages: Sequence[Any]) -> list[Any]:
    """Return the messages with contents that can be read twice: some come as one-shot iterators."""
    return [
        {**message, "content": list(message["content"])} if _has_parts(message) else message
        for message in messages
    ]


def item_queries(messages: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the conditioning texts by modality, in prompt order; "" where there is none.

    Args:
        messages: OpenAI-style messages, `materialize`d.
    """
    queries: dict[str, list[str]] = {modality: [] for modality in _MEDIA_PARTS}
    for run in _runs(messages):
        texts: list[str] = []
        items: list[str] = []
        for message in run:
            for kind, text in _parts(message):
                if kind in _MEDIA_PARTS:
                    items.append(kind)
                elif message.get("role") == "user":
                    texts.append(text)
        query = _bounded("\n".join(texts).strip())
        for modality in items:
            queries[modality].append(query)
    return queries


def _runs(messages: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    run: list[Mapping[str, Any]] = []
    for message in messages:
        run.append(message)
        if message.get("role") == "assistant":
            yield run
            run = []
    yield run


def _parts(message: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """("text", the text) or (modality, "") for every part of a message that is one of these."""
    content = message.get("content")
    if isinstance(content, str):
        yield "text", content
    elif _has_parts(message):
        for part in content:  # type: ignore[union-attr]
            if isinstance(part, str):
                yield "text", part
            elif (kind := _part_type(part)) in _TEXT_PARTS:
                yield "text", str(part.get("text") or part.get(kind) or "")
            elif kind in _MODALITY_OF:
                yield _MODALITY_OF[kind], ""


def _part_type(part: Mapping[str, Any]) -> str | None:
    """The type as vLLM reads it: without one, or with a uuid, the key that is present decides."""
    kind: str | None = part.get("type")
    if kind is None or part.get("uuid") is not None:
        return next((key for key in _MODALITY_OF if key in part), kind)
    return kind


def _has_parts(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return content is not None and not isinstance(content, str)


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
    for run in _raw_runs(text, scaffolding):
        query = run
        for token in tokens.values():
            query = query.replace(token, "")
        query = _bounded(query.strip())
        for modality, token in tokens.items():
            queries[modality] += [query] * run.count(token)
    return queries


def _raw_runs(text: str, scaffolding: Scaffolding) -> list[str]:
    """What users said between assistants' turns."""
    opening, answer = scaffolding.user, scaffolding.assistant
    if not answer or not opening or opening not in text:
        return [text]
    # An assistant's words run until the next user's turn; so does a system prompt.
    stretches = [stretch.partition(opening)[2] for stretch in text.split(answer)]
    return [stretch.replace(opening, "\n") for stretch in stretches]


def _bounded(text: str) -> str:
    """The beginning and the end of a text that is longer than MAX_QUERY_CHARS."""
    if len(text) <= MAX_QUERY_CHARS:
        return text
    half = MAX_QUERY_CHARS // 2
    return text[:half] + text[-half:]
