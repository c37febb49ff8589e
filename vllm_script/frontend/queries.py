"""Which text conditions which image or video, as a person would say.

A conversation falls into stretches that end with an assistant's message. What users say in a
stretch is one question. An item's own question is

- of an item that a user sends, that of its stretch. If nothing is said there, the next one, once
  there is any; until then the one before;
- of an item in a tool's result or an assistant's message, what users last said before it, and what
  they say behind it in its stretch.

Whether what is asked later counts too is the policy of the conversation, see `conditioning`. System
prompts count where the operator says so. Tool output, the chat template's own words, and phrases
that say how to answer (phrases.py) never do.

A prompt that was never messages (`LLM.generate` with text or token ids) is cut into the same
stretches: the chat template is rendered once around marks, and what it wrote between them are the
words that open a user's and an assistant's turn.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..config import MAX_QUERY_CHARS, MAX_QUESTIONS
from .phrases import AnswerPhrases

_SYSTEM_ROLES = ("system", "developer")
_TOOL_ROLES = ("tool", "function")
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


@dataclass(frozen=True)
class Reader:
    """What counts as a question."""

    phrases: AnswerPhrases
    """Phrases that say how to answer, and do not count."""

    system_prompt: bool = False
    """Whether system prompts are part of every question."""

    def question(self, texts: Iterable[str]) -> str:
        """Return what these texts ask for; "" where they ask for nothing."""
        text = "\n".join(text.strip() for text in texts if text.strip())
        if len(text) > MAX_QUERY_CHARS:  # the beginning and the end count
            half = MAX_QUERY_CHARS // 2
            text = text[:half] + text[-half:]
        return self.phrases.taken_out_of(text)


@dataclass
class _Stretch:
    """What users said, and the items, between two assistant messages; the second one included."""

    words: list[str] = field(default_factory=list)
    """Texts of the user's messages."""

    items: list[tuple[str, bool]] = field(default_factory=list)
    """Modality of each item, and whether it answers words from before this stretch: it came from a
    tool or the assistant, and no user has said anything in this stretch before it."""


def item_queries(
    messages: Sequence[Mapping[str, Any]], reader: Reader
) -> dict[str, list[tuple[str, ...]]]:
    """Return the questions that may condition each item, by modality, in prompt order.

    The first one is the item's own, the others are what users asked later, in their order; none is
    empty, and an item may have none at all.

    Args:
        messages: OpenAI-style messages, `materialize`d.
        reader: what counts as a question.
    """
    system = [
        text
        for message in messages
        if message.get("role") in _SYSTEM_ROLES
        for kind, text in _parts(message)
        if kind == "text"
    ]
    return _queries(_stretches(messages), reader, "\n".join(system) if reader.system_prompt else "")


def _stretches(messages: Sequence[Mapping[str, Any]]) -> list[_Stretch]:
    stretch = _Stretch()
    stretches = [stretch]
    from_tool = False  # whether a tool has answered, and nobody has said anything since
    for message in messages:
        role = message.get("role")
        parts = list(_parts(message))
        words = [text for kind, text in parts if kind == "text" and text.strip()]
        if role in _TOOL_ROLES:
            from_tool = True
        elif role != "user" or words:
            from_tool = False
        # Where a tool's message cannot hold images, clients send them as the user, without words.
        returned = role != "user" or from_tool
        stretch.items += [
            (kind, returned and not stretch.words) for kind, _ in parts if kind in _MEDIA_PARTS
        ]
        if role == "user":
            stretch.words += words
        elif role == "assistant":
            stretch = _Stretch()
            stretches.append(stretch)
    return stretches


def _queries(
    stretches: Sequence[_Stretch], reader: Reader, system: str = ""
) -> dict[str, list[tuple[str, ...]]]:
    """`item_queries` of what users said and showed.

    Args:
        system: text that is part of every question.
    """
    asked = [reader.question(stretch.words) for stretch in stretches]
    queries: dict[str, list[tuple[str, ...]]] = {modality: [] for modality in _MEDIA_PARTS}
    for index, stretch in enumerate(stretches):
        before = next(filter(None, reversed(asked[:index])), "")
        later = [question for question in asked[index + 1 :] if question]
        for modality, is_answer in stretch.items:
            if is_answer:
                own = reader.question([before, asked[index]])
            else:
                own = asked[index] or next(iter(later), before)
            questions = [reader.question([system, q]) for q in filter(None, (own, *later))]
            queries[modality].append(tuple(questions or filter(None, [reader.question([system])])))
    return queries


def conditioning(questions: Sequence[str], policy: str) -> tuple[str, ...]:
    """Return those of an item's questions that condition it.

    Args:
        questions: as `item_queries` returns them.
        policy: `turn`, `latest` or `all`, see the setting `conversation`.
    """
    if policy == "turn":
        return tuple(questions[:1])
    if policy == "latest":
        return tuple(questions[-1:])
    own, *later = dict.fromkeys(questions) or [""]
    return tuple(filter(None, (own, *later[len(later) - MAX_QUESTIONS + 1 :])))


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
    text: str, tokens: Mapping[str, str], scaffolding: Scaffolding, reader: Reader
) -> dict[str, list[tuple[str, ...]]]:
    """Return what `item_queries` does, of a prompt that was never messages.

    A prompt that does not follow the template is one stretch: all of its text counts.

    Args:
        text: the prompt, with one token an item.
        tokens: what stands for an item, by modality.
    """
    stretches = []
    for said in _raw_stretches(text, scaffolding):
        words = said
        for token in tokens.values():
            words = words.replace(token, "")
        items = [(m, False) for m, token in tokens.items() for _ in range(said.count(token))]
        stretches.append(_Stretch([words], items))
    return _queries(stretches, reader)


def _raw_stretches(text: str, scaffolding: Scaffolding) -> list[str]:
    """What users said between assistants' turns."""
    opening, answer = scaffolding.user, scaffolding.assistant
    if not answer or not opening or opening not in text:
        return [text]
    # An assistant's words run until the next user's turn; so does a system prompt.
    pieces = [piece.partition(opening)[2] for piece in text.split(answer)]
    return [piece.replace(opening, "\n") for piece in pieces]
