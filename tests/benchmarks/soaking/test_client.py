"""A client notes what came back, whatever that is."""

import asyncio
import json

import httpx
import pytest

from vllm_script.benchmarks.soaking.client import (
    HUNG_UP,
    RESPONSES,
    TOKENIZE,
    Outcome,
    Request,
    send,
)

STREAM = {"stream": True}
PIECE = {"choices": [{"delta": {"content": "blue"}}], "usage": {"prompt_tokens": 9}}
LAST = {"choices": [], "usage": {"prompt_tokens": 9}}
ERROR = {"error": {"message": "Internal server error", "code": 500}}


def answer(request, body, status=200, wait=0.0):
    """The outcome of a request that a server answers with that body."""

    async def respond(_):
        await asyncio.sleep(wait)
        return httpx.Response(status, text=body)

    async def run():
        transport = httpx.MockTransport(respond)
        async with httpx.AsyncClient(base_url="http://server", transport=transport) as http:
            return await send(http, request)

    return asyncio.run(run())


def events(*chunks, done=True):
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join(lines + ["data: [DONE]\n\n"] * done)


def test_answers():
    chat = {"choices": [{"message": {"content": "blue"}}], "usage": {"prompt_tokens": 7}}
    assert answer(Request("a", {}), json.dumps(chat)) == Outcome(200, 7, "blue")
    responses = json.dumps({"usage": {"input_tokens": 8}})
    assert answer(Request("a", {}, RESPONSES), responses).prompt_tokens == 8
    assert answer(Request("a", {}, TOKENIZE), json.dumps({"count": 5})).prompt_tokens == 5


def test_errors():
    assert answer(Request("a", {}), "why", 400) == Outcome(400, text="why")
    assert answer(Request("a", STREAM), "why", 404) == Outcome(404, text="why")
    assert answer(Request("a", {}), "no JSON").status == 0


def test_streams():
    whole = events(PIECE, PIECE, LAST)
    assert answer(Request("a", STREAM), whole) == Outcome(200, 9)
    assert answer(Request("a", STREAM, cut_after=2), whole) == Outcome(200, 9)
    assert answer(Request("a", STREAM, cut_after=3), whole).status == 0
    merged = {**PIECE, "usage": {"prompt_tokens": 9, "completion_tokens": 3}}  # of three tokens
    assert answer(Request("a", STREAM, cut_after=3), events(merged)) == Outcome(200, 9)
    assert answer(Request("a", STREAM, cut_after=4), events(merged)).status == 0
    assert answer(Request("a", STREAM), events(PIECE, done=False)).status == 0
    assert answer(Request("a", STREAM), events(PIECE, ERROR)).status == 500


@pytest.mark.parametrize(("wait", "status"), [(0.0, 0), (5.0, HUNG_UP)])
def test_hanging_up(wait, status):
    assert answer(Request("a", {}, hang_up=0.2), "", wait=wait).status == status
