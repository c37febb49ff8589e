"""One block under a bad neighbour: clients that stream answers, and one that sends pictures.

The clients ask about no picture, each its next question as soon as it has an answer. The neighbour
sends prompts full of pictures, the next one as soon as it has an answer, from before the
clients' first question until after their last answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
    """Of each client, one after the other."""
    output_tokens: int
    """Of an answer to one of them."""
    prompts: Sequence[Mapping[str, Any]]
    """Messages of the neighbour, new to the server."""
    prompt_tokens: int
    """Of each of the neighbour's prompts, on this server."""
    keep_ratio: float | None
    """What the neighbour asks for; None of stock."""


@dataclass(frozen=True)
class Outcome:
    """What was seen in one block."""

    gaps: list[float]
    """Seconds between one token and the next, of all answers to the clients."""
    prompts: int
    """Prompts of the neighbour that were answered."""


async def run_block(target: Target, load: Load) -> Outcome:
    """Send a block's load.

    Raises:
        WrongOutputs: an answer or prompt has other tokens than expected, or the neighbour had none.
        httpx.HTTPError: a request failed.
    """
    key = os.environ.get("OPENAI_API_KEY", "none")
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=target.root, timeout=None, headers=headers) as http:
        answered: list[int] = []
        neighbour = asyncio.create_task(_neighbour(http, target.model, load, answered))
        clients = [_client(http, target.model, questions, load) for questions in load.questions]
        streaming = asyncio.gather(*clients)
        await asyncio.wait((neighbour, streaming), return_when=asyncio.FIRST_COMPLETED)
        if neighbour.done():
            streaming.cancel()
            neighbour.result()  # raises what went wrong, if anything has
            raise WrongOutputs("the neighbour ran out of prompts; give it more")
        neighbour.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await neighbour
        gaps = sum(await streaming, [])
    if not answered:
        raise WrongOutputs("no prompt of the neighbour was answered; give the clients more to do")
    return Outcome(gaps, len(answered))


async def _client(
    http: httpx.AsyncClient, model: str, questions: Sequence[str], load: Load
) -> list[float]:
    """Seconds between the tokens of the answers to one client."""
    gaps = []
    for question in questions:
        body = _body(model, {"role": "user", "content": question}, load.output_tokens)
        times, usage = await stream(http, body)
        if usage["completion_tokens"] != load.output_tokens:
            raise WrongOutputs(f"an answer has {usage} instead of {load.output_tokens} tokens")
        gaps += [later - earlier for earlier, later in pairwise(times)]
    return gaps


async def _neighbour(http: httpx.AsyncClient, model: str, load: Load, answered: list[int]) -> None:
    """Send the neighbour's prompts; the tokens of those that are answered go to `answered`."""
    for message in load.prompts:
        body = _body(model, message, NEIGHBOUR_TOKENS)
        if load.keep_ratio is not None:
            body["script"] = {"keep_ratio": load.keep_ratio}
        _, usage = await stream(http, body)
        if usage["prompt_tokens"] != load.prompt_tokens:
            raise WrongOutputs(f"the neighbour had {usage}, expected {load.prompt_tokens} in")
        answered.append(usage["prompt_tokens"])


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
    http: httpx.AsyncClient, body: Mapping[str, Any]
) -> tuple[list[float], dict[str, int]]:
    """When each piece of an answer came, by `time.perf_counter`, and the server's token counts.

    Raises:
        httpx.HTTPError: the server refuses, or the connection ends.
    """
    times: list[float] = []
    usage: dict[str, int] = {}
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
                times.append(now)
            usage = chunk.get("usage") or usage
    return times, usage
