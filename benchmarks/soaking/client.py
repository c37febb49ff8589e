"""One request: what is sent, when the client goes away, what must come back, and what did."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx

CHAT, RESPONSES, TOKENIZE = "/v1/chat/completions", "/v1/responses", "/tokenize"

SECONDS = 300
"""Without an answer for so long, a request has failed."""

HUNG_UP = -1
"""Stands in place of a status, where the client did not wait for one."""


@dataclass(frozen=True)
class Request:
    """What a client does, and what a server that is right answers."""

    kind: str
    """Row of the report that it is counted in."""
    body: dict[str, Any]
    """What is sent, as JSON."""
    path: str = CHAT
    status: int = 200
    """HTTP status that must come back."""
    prompt_tokens: int | None = None
    """What the server must count; None where it refuses."""
    pruned: tuple[tuple[int, int], ...] = ()
    """Visual tokens of every image that is processed to be pruned, without pruning and with it."""
    refusal: str | None = None
    """Reason under which the plugin counts its refusal."""
    cut_after: int | None = None
    """Pieces of a streamed answer after which the client goes away."""
    hang_up: float | None = None
    """Seconds after which the client closes the connection, answered or not."""


@dataclass(frozen=True)
class Outcome:
    """What came back."""

    status: int
    """HTTP status, `HUNG_UP`, or 0 where there was no answer."""
    prompt_tokens: int | None = None
    text: str = ""
    """The answer's text, or what the server or the connection said was wrong."""


async def send(http: httpx.AsyncClient, request: Request) -> Outcome:
    """Send a request to the server that is the base of the client's addresses."""
    try:
        return await asyncio.wait_for(_ask(http, request), request.hang_up or SECONDS)
    except TimeoutError:
        if request.hang_up is not None:
            return Outcome(HUNG_UP)
        return Outcome(0, text=f"no answer in {SECONDS} s")
    except (httpx.HTTPError, ValueError) as error:
        return Outcome(0, text=repr(error))


async def _ask(http: httpx.AsyncClient, request: Request) -> Outcome:
    # ASCII, with NaN as it is: what a client sends who checks nothing.
    data, headers = json.dumps(request.body).encode(), {"content-type": "application/json"}
    async with http.stream("POST", request.path, content=data, headers=headers) as reply:
        if request.body.get("stream") and reply.status_code == 200:
            return await _read_stream(reply, request.cut_after)
        body = (await reply.aread()).decode()
    if reply.status_code != 200:
        return Outcome(reply.status_code, text=body)
    answer = json.loads(body)
    usage = answer.get("usage") or {"prompt_tokens": answer.get("count")}
    tokens = usage.get("prompt_tokens", usage.get("input_tokens"))
    choices = answer.get("choices")
    return Outcome(200, tokens, choices[0]["message"]["content"] if choices else "")


async def _read_stream(reply: httpx.Response, cut_after: int | None) -> Outcome:
    """Read pieces to the end, or so many of them: closing the reply closes the connection.

    Where the server's processes are short of time it puts several tokens into a piece. So a stream
    may end before that many pieces have come, but not before that many tokens.
    """
    tokens, pieces, answered = None, 0, 0
    async for line in reply.aiter_lines():
        if line == "data: [DONE]":
            if cut_after is not None and answered < cut_after:
                return Outcome(0, text=f"the stream ended after {answered} tokens")
            return Outcome(200, tokens)
        if not line.startswith("data: "):
            continue
        chunk = json.loads(line.removeprefix("data: "))
        if error := chunk.get("error"):
            return Outcome(int(error.get("code", 0)), text=str(error))
        usage = chunk.get("usage") or {}
        tokens = usage.get("prompt_tokens", tokens)
        answered = usage.get("completion_tokens", answered)
        pieces += bool(chunk["choices"])
        if pieces == cut_after:
            return Outcome(200, tokens)
    return Outcome(0, text="the stream ended without [DONE]")
