"""Which text conditions which image or video.

An image belongs to the run of messages between two assistant messages, and all user text of that
run conditions it, for ever: later turns never change it, so a conversation keeps its prefix cache.
System prompts, tool output and the chat template's own words are not query text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..config import MAX_QUERY_CHARS

_TEXT_PARTS = ("text", "input_text")
_MEDIA_PARTS = {
    "image": ("image_url", "input_image", "image_pil", "image_embeds"),
    "video": ("video_url", "video_embeds"),
}
_MODALITY_OF = {kind: modality for modality, kinds in _MEDIA_PARTS.items() for kind in kinds}


def materialize(messages: Sequence[Any]) -> list[Any]:
    """The same messages with contents that can be read twice: some are one-shot iterators."""
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
        query = bounded("\n".join(texts).strip())
        for modality in items:
            queries[modality].append(query)
    return queries


def image_queries(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those of the images."""
    return item_queries(messages)["image"]


def bounded(text: str) -> str:
    """The beginning and the end of a text that is too long to be a question."""
    if len(text) <= MAX_QUERY_CHARS:
        return text
    half = MAX_QUERY_CHARS // 2
    return text[:half] + text[-half:]


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
    kind = part.get("type")
    if kind is None or part.get("uuid") is not None:
        return next((key for key in _MODALITY_OF if key in part), kind)
    return kind


def _has_parts(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return content is not None and not isinstance(content, str)
