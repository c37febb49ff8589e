"""Sends one request as a client would, and says what came back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from .requests import Request

SECONDS = 300
"""Without an answer for so long, a request has failed."""

HUNG_UP = -1
"""Stands in place of a status, where the client did not wait for one."""


@dataclass(frozen=True)
class Outcome:
    """What came back."""

    status: int
    """HTTP status, `HUNG_UP`, or 0 where there was no answer."""
    prompt_tokens: int | None = None
    text: str = ""
    """The answer's text, or what the server or the connection said was wrong."""


async def send(client: httpx.AsyncClient, root: str, request: Request) -> Outcome:
    """Send it; `root`: the server's address, without /v1."""
    # ASCII, with NaN as it is: what a client sends who checks nothing.
    data = json.dumps(request.body).encode()
    answer = _ask(client, f"{root}{request.path}", data, request)
    try:
        return await asyncio.wait_for(answer, request.hang_up or SECONDS)
    except asyncio.TimeoutError:
        if request.hang_up is not None:
            return Outcome(HUNG_UP)
        return Outcome(0, text=f"no answer in {SECONDS} s")
    except (httpx.HTTPError, ValueError) as error:
        return Outcome(0, text=repr(error))


async def _ask(client: httpx.AsyncClient, url: str, data: bytes, request: Request) -> Outcome:
    headers = {"content-type": "application/json"}
    async with client.stream("POST", url, content=data, headers=headers) as reply:
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
    """Read pieces to the end, or so many of them: closing the reply closes the connection."""
    tokens, pieces = None, 0
    async for chunk in _chunks(reply):
        if error := chunk.get("error"):
            return Outcome(int(error.get("code", 0)), text=str(error))
        tokens = (chunk.get("usage") or {}).get("prompt_tokens", tokens)
        pieces += bool(chunk["choices"])
        if pieces == cut_after:
            return Outcome(200, tokens)
    if cut_after is not None:
        return Outcome(0, text=f"the stream ended after {pieces} pieces")
    return Outcome(200, tokens)


async def _chunks(reply: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in reply.aiter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
    raise ValueError("the stream ended without [DONE]")
