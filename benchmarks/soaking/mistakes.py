"""What clients get wrong: every kind that the documentation names, and what stock vLLM refuses.

A refusal of ours has the reason that the plugin counts it under, one of vLLM's has none.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import torch

SCRIPT_MISTAKES: tuple[tuple[Any, str], ...] = (
    ({"keep_ratio": 0}, "keep_ratio"),
    ({"keep_ratio": -1}, "keep_ratio"),
    ({"keep_ratio": 1.5}, "keep_ratio"),
    ({"keep_ratio": 0.001}, "keep_ratio"),
    ({"keep_ratio": float("nan")}, "keep_ratio"),
    ({"keep_ratio": "half"}, "keep_ratio"),
    ({"keep_ratio": 0.5, "visual_token_budget": 9}, "keep_ratio"),
    ({"visual_token_budget": 0}, "visual_token_budget"),
    ({"visual_token_budget": 10**9}, "visual_token_budget"),
    ({"visual_token_budget": 1.5}, "visual_token_budget"),
    ({"mode": "best"}, "mode"),
    ({"relevance": "magic"}, "relevance"),
    ({"query": " "}, "query"),
    ({"query": "x" * 100_000}, "query"),
    ({"query": "\ud800"}, "query"),
    ({"pruning_ratio": 0.5}, "unknown"),
    ({"tau": 0.5}, "unknown"),
    ([], "unknown"),
    ("keep_ratio=0.5", "unknown"),
)
"""The `script` field of a request, and the reason."""


def vllm_mistakes(body: dict[str, Any], max_images: int, context: int) -> Iterator[dict[str, Any]]:
    """Bodies that stock vLLM refuses before it has looked at the image.

    Args:
        body: a chat with one image, then one text.
        max_images: that a request may have.
        context: longest prompt in tokens.
    """
    image, text = body["messages"][0]["content"]

    def asking(*content: Any) -> dict[str, Any]:
        return body | {"messages": [{"role": "user", "content": content}]}

    def named(url: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": url}}

    yield asking(*[image] * (max_images + 1), text)
    yield asking(image, {"type": "text", "text": "how many " * context})
    some = {"type": "text", "text": "how many " * (context * 3 // 10)}  # too long with the image
    yield asking(image, some) | {"script": {"keep_ratio": 1.0}}
    yield asking(named("data:image/png;base64,bm90IGFuIGltYWdl"), text)
    yield asking(named(image["image_url"]["url"][:60]), text)
    yield asking({"type": "image_url", "image_url": None, "uuid": "never seen"}, text)
    yield asking({"type": "picture"}, text)
    yield body | {"messages": []}
    yield {"model": body["model"]}


def pruned_embeddings(width: int) -> dict[str, Any]:
    """Part of a message: an image that comes encoded, in rows of `width`; it cannot be pruned."""
    data = io.BytesIO()
    torch.save(torch.zeros(50, width), data)
    encoded = base64.b64encode(data.getvalue()).decode()
    return {"type": "image_embeds", "image_embeds": encoded}
