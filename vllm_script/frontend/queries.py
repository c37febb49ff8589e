"""Which text conditions which image or video, as a person would say.

A conversation falls into stretches that end with an assistant's message. What users say in a
stretch is one question; behind a tool's result it goes on with the question before. An item's own
question is

- of an item that a user sends or a tool returns, that of its stretch. If there is none: what is
  said in the very next stretch, else the question before, else the first one after;
- of an item in an assistant's message: that of its stretch, else the one before, else the first one
  after.

Whether what is asked later counts too is the policy of the conversation, see `conditioning`. System
prompts count where the operator says so. Tool output, the chat template's own words, and phrases
that say how to answer (phrases.py) never do.

A prompt that was never messages (`LLM.generate` with text or token ids) is cut into the same
stretches: the chat template is rendered once around marks, and what it wrote between them are the
words that open a user's and an assistant's turn.
"""

from __future__ import annotations

import itertools
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

    def words(self, texts: Iterable[str]) -> str:
        """Return what these texts ask for; "" where they ask for nothing."""
        return self.phrases.taken_out_of(_joined(texts))


def _joined(texts: Iterable[str]) -> str:
    """The texts, one a line; of a very long one the beginning and the end."""
    text = "\n".join(filter(None, map(str.strip, texts)))
    if len(text) <= MAX_QUERY_CHARS:
        return text
    half = MAX_QUERY_CHARS // 2
    return text[:half] + text[-half:]


@dataclass
class _Stretch:
    """What is said and shown between two assistant messages; the second one included."""

    texts: list[str] = field(default_factory=list)
    """Texts of the user's messages."""

    items: list[tuple[str, bool]] = field(default_factory=list)
    """Modality of each item, and whether the assistant shows it."""

    continues: bool = False
    """Whether it begins with a tool's result, so that users are still where they were."""


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
    system = ""
    if reader.system_prompt:
        leading = itertools.takewhile(lambda m: m.get("role") in _SYSTEM_ROLES, messages)
        texts = (text for message in leading for kind, text in _parts(message) if kind == "text")
        system = reader.words(texts)
    return _queries(_stretches(messages), reader, system)


def _stretches(messages: Sequence[Mapping[str, Any]]) -> list[_Stretch]:
    stretches = [_Stretch()]
    for message in messages:
        role, stretch = message.get("role"), stretches[-1]
        if role in _TOOL_ROLES and not stretch.texts and not stretch.items:
            stretch.continues = True
        for kind, text in _parts(message):
            if kind in _MEDIA_PARTS:
                stretch.items.append((kind, role == "assistant"))
            elif role == "user":
                stretch.texts.append(text)
        if role == "assistant":
            stretches.append(_Stretch())
    return stretches


def _queries(
    stretches: Sequence[_Stretch], reader: Reader, system: str = ""
) -> dict[str, list[tuple[str, ...]]]:
    """`item_queries` of what is said and shown.

    Args:
        system: text that is part of every question.
    """
    # The question of each stretch, and the same where it is a new one: users say something.
    asked, new = [], []
    before = ""
    for stretch in stretches:
        words = reader.words(stretch.texts)
        asked.append(_joined((before, words)) if stretch.continues else words)
        new.append(asked[-1] if words else "")
        before = asked[-1] or before
    queries: dict[str, list[tuple[str, ...]]] = {modality: [] for modality in _MEDIA_PARTS}
    full = {question: _joined((system, question)) for question in ("", *asked)}
    before = ""
    for index, stretch in enumerate(stretches):
        later = list(filter(None, new[index + 1 :]))
        following = next(iter(new[index + 1 :]), "")
        first_later = next(iter(later), "")
        for modality, is_shown_by_assistant in stretch.items:
            own = asked[index]
            if not own and not is_shown_by_assistant:
                own = following
            own = own or before or first_later
            questions = tuple(full[question] for question in (own, *later) if full[question])
            queries[modality].append(questions)
        before = asked[index] or before
    return queries


def conditioning(questions: Sequence[str], policy: str) -> tuple[str, ...]:
    """Return those of an item's questions that condition it, each of them once.

    Args:
        questions: as `item_queries` returns them.
        policy: `turn`, `latest` or `all`, see the setting `conversation`.
    """
    if policy == "turn":
        return tuple(questions[:1])
    if policy == "latest":
        return tuple(questions[-1:])
    newest = list(dict.fromkeys(reversed(questions)))[: MAX_QUESTIONS - 1]
    return tuple(dict.fromkeys((*questions[:1], *reversed(newest))))


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
    kind: Any = part.get("type")
    if kind is None or part.get("uuid") is not None:
        kind = next((key for key in _MODALITY_OF if key in part), kind)
    return kind if isinstance(kind, str) else None  # vLLM says what is wrong


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
    for piece, said in _raw_stretches(text, scaffolding):
        for token in tokens.values():
            said = said.replace(token, "")
        items = [(m, False) for m, token in tokens.items() for _ in range(piece.count(token))]
        stretches.append(_Stretch([said], items))
    return _queries(stretches, reader)


def _raw_stretches(text: str, scaffolding: Scaffolding) -> list[tuple[str, str]]:
    """Each piece of a prompt up to an assistant's turn, and what users say in it."""
    opening, answer = scaffolding.user, scaffolding.assistant
    if not answer or not opening or opening not in text:
        return [(text, text)]
    # An assistant's words run until the next user's turn; so does a system prompt.
    pieces = text.split(answer)
    return [(piece, piece.partition(opening)[2].replace(opening, "\n")) for piece in pieces]
