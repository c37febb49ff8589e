"""lmms-eval's messages as a chat request carries them: pictures unchanged, videos as videos."""

from __future__ import annotations

import base64
import hashlib
import io
import mimetypes
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

Messages = Sequence[Mapping[str, Any]]
"""{"role": ..., "content": [{"type": "text", "text": ...} or {"type": ..., "url": ...}, ...]}."""


def media_of(messages: Messages) -> list[tuple[str, Any]]:
    """(image or video, what lmms-eval has of it) of a conversation, in order."""
    parts = (part for message in messages for part in message["content"])
    return [(part["type"], part["url"]) for part in parts if part["type"] != "text"]


def picture_key(messages: Messages) -> str:
    """A name that conversations about the same pictures and videos share."""
    digest = hashlib.sha256()
    for kind, media in media_of(messages):
        if isinstance(media, Image.Image):
            digest.update(f"{media.mode} {media.size}".encode() + media.tobytes())
        else:
            digest.update(f"{kind} {media}".encode())
    return digest.hexdigest()


def chat_messages(messages: Messages, media_root: Path | None) -> list[dict[str, Any]]:
    """The `messages` of a chat completions request.

    Args:
        media_root: a folder that the server may read (`--allowed-local-media-path`). Videos in
            there go as file:// URLs; without one, and from elsewhere, they are sent whole.

    Raises:
        ValueError: there is something that cannot be sent, such as sound or a part of a video.
    """
    return [
        {"role": message["role"], "content": list(_parts(message["content"], media_root))}
        for message in messages
    ]


def sizes_of_pictures(messages: Messages) -> Iterator[tuple[int, int]]:
    """(width, height) of each picture of a conversation."""
    for kind, media in media_of(messages):
        if kind == "image":
            yield _opened(media).size


def _parts(content: Iterable[Mapping[str, Any]], root: Path | None) -> Iterator[dict[str, Any]]:
    for part in content:
        if part["type"] == "text":
            yield {"type": "text", "text": part["text"]}
        elif part["type"] == "image":
            yield {"type": "image_url", "image_url": {"url": _picture_url(part["url"])}}
        elif part["type"] == "video" and isinstance(part["url"], str | os.PathLike):
            yield {"type": "video_url", "video_url": {"url": _video_url(part["url"], root)}}
        else:
            what = f"{part['type']} as {type(part['url']).__name__}"
            raise ValueError(
                f"the task has {what}; only pictures and whole video files can be sent"
            )


def _opened(picture: Any) -> Image.Image:
    return picture if isinstance(picture, Image.Image) else Image.open(picture)


def _picture_url(picture: Any) -> str:
    """A picture as a PNG in a data URL, in its own size."""
    data = io.BytesIO()
    _opened(picture).convert("RGB").save(data, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _video_url(video: str | os.PathLike[str], root: Path | None) -> str:
    """A video file as the server can read it."""
    if str(video).startswith(("http://", "https://", "data:", "file://")):
        return str(video)
    path = Path(video).resolve()
    if root is not None and path.is_relative_to(root.resolve()):
        return path.as_uri()
    media = mimetypes.guess_type(path.name)[0] or "video/mp4"
    return f"data:{media};base64,{base64.b64encode(path.read_bytes()).decode()}"
