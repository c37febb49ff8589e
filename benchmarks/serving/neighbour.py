"""One block under a bad neighbour: clients that stream answers, and one that sends pictures.

The neighbour sends prompts full of pictures, the next one as soon as it has an answer. Until its
last answer the clients ask, about no picture, each its next question as soon as it has an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import httpx

from .checks import WrongOutputs
from .fleet import Target

NEIGHBOUR_TOKENS = 2
"""Tokens of an answer to the neighbour, whose prompts are what the others wait for."""


@dataclass(frozen=True)
class Load:
    """What is sent in one block."""

    questions: Sequence[Sequence[str]]
    """Of each client, over and over."""
    output_tokens: int
    """Of an answer to one of them."""
    prompts: Sequence[Mapping[str, Any]]
    """Messages of the neighbour, new to the server."""
    prompt_tokens: int
    """Of each of the neighbour's prompts, on this server."""
    keep_ratio: float | None
    """What the neighbour asks for; None of stock."""


async def run_block(target: Target, load: Load) -> list[float]:
    """Send a block's load.

    Returns:
        seconds between one token and the next, of all answers to the clients.

    Raises:
        WrongOutputs: an answer or prompt has other tokens than expected.
        httpx.HTTPError: a request failed.
    """
    key = os.environ.get("OPENAI_API_KEY", "none")
    headers = {"Authorization": f"Bearer {key}"}
    gaps: list[float] = []
    async with httpx.AsyncClient(base_url=target.root, timeout=None, headers=headers) as http:
        clients = [_client(http, target.model, own, load, gaps) for own in load.questions]
        streaming = asyncio.gather(*clients)
        neighbour = asyncio.create_task(_neighbour(http, target.model, load))
        await asyncio.wait((neighbour, streaming), return_when=asyncio.FIRST_COMPLETED)
        for task in (neighbour, streaming):  # the clients go on for ever, but for an error
            if not task.done():
                task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await streaming
        await neighbour
    return gaps


async def _client(
    http: httpx.AsyncClient,
    model: str,
    questions: Sequence[str],
    load: Load,
    gaps: list[float],
) -> None:
    """Ask without end; the seconds between one token and the next go to `gaps` as they pass."""
    for question in cycle(questions):
        body = _body(model, {"role": "user", "content": question}, load.output_tokens)
        usage = await stream(http, body, gaps)
        if usage["completion_tokens"] != load.output_tokens:
            raise WrongOutputs(f"an answer has {usage} instead of {load.output_tokens} tokens")


async def _neighbour(http: httpx.AsyncClient, model: str, load: Load) -> None:
    """Send the neighbour's prompts."""
    for message in load.prompts:
        body = _body(model, message, NEIGHBOUR_TOKENS)
        if load.keep_ratio is not None:
            body["script"] = {"keep_ratio": load.keep_ratio}
        usage = await stream(http, body, [])
        if usage["prompt_tokens"] != load.prompt_tokens:
            raise WrongOutputs(f"the neighbour had {usage}, expected {load.prompt_tokens} in")


def _body(model: str, message: Mapping[str, Any], output_tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [message],
        "max_tokens": output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def stream(
    http: httpx.AsyncClient, body: Mapping[str, Any], gaps: list[float]
) -> dict[str, int]:
    """Read an answer, and return the server's token counts.

    Args:
        gaps: the seconds between one token and the next are added to it as they pass.

    Raises:
        httpx.HTTPError: the server refuses, or the connection ends.
    """
    usage: dict[str, int] = {}
    last = None
    async with http.stream("POST", "/v1/chat/completions", json=body) as reply:
        if reply.is_error:
            await reply.aread()
            raise httpx.HTTPStatusError(reply.text, request=reply.request, response=reply)
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            now, chunk = time.perf_counter(), json.loads(line.removeprefix("data: "))
            # The first chunk names the role, and has no token.
            if any(not choice["delta"].get("role") for choice in chunk["choices"]):
                if last is not None:
                    gaps.append(now - last)
                last = now
            usage = chunk.get("usage") or usage
    return usage
