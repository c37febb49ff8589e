"""Chat requests from a log, whose truth is what the model answers unpruned."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEDIA = ("image_url", "video_url")
OURS = (
    *("model", "stream", "stream_options", "temperature", "n", "best_of", "seed", "script"),
    *("max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "top_p", "top_k"),
)
"""Keys of a logged request that are not sent: what `tune` says itself, and sampling."""


@dataclass(frozen=True)
class LoggedRequest:
    """A request of a log."""

    id: str
    """Number of its line."""
    request: dict[str, Any]
    """Body of the request without the keys that `tune` sets."""
    answers: tuple[str, ...] = ()
    """It has no accepted answers: the unpruned answer is the truth."""
    rule: str = "exact"
    """The pruned answer is right if it is the same."""


def read_log(path: Path) -> list[LoggedRequest]:
    """The requests of a log that have a picture or a video.

    A line is the JSON body of a chat completions request, or has it as its "body", as the lines of
    `vllm run-batch` do.

    Raises:
        ValueError: a line is none of that, or no request has a picture; names the line.
    """
    found = []
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give --log a file of chat requests")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        body = _body(line)
        if body is None:
            raise ValueError(
                f"{path}:{number}: is no chat completions request; each line must be the JSON body "
                'of one, {"messages": [...]}, or have it as its "body"'
            )
        if media_parts(body["messages"]):
            rest = {name: value for name, value in body.items() if name not in OURS}
            found.append(LoggedRequest(str(number), rest))
    if not found:
        raise ValueError(f"{path} has no request with a picture or video, so none to prune")
    return found


def _body(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    body = entry.get("body", entry) if isinstance(entry, dict) else None
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        return None
    return body if all(isinstance(message, dict) for message in body["messages"]) else None


def media_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts of the messages that are pictures or videos, in their order."""
    contents = [m["content"] for m in messages if isinstance(m.get("content"), list)]
    parts = [part for content in contents for part in content if isinstance(part, dict)]
    return [part for part in parts if part.get("type") in MEDIA]
