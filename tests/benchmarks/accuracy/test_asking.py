"""What is asked of an endpoint."""

import asyncio
import json
from dataclasses import replace

import httpx
import openai
import pytest

from vllm_script.benchmarks.accuracy.asking import Endpoint, read_answers
from vllm_script.benchmarks.accuracy.questions import Item
from vllm_script.benchmarks.accuracy.settings import WHOLE, WHOLE_ALONE, grid
from vllm_script.benchmarks.common import write_lines

ITEM = Item("1", "?", ("red",), "all", b"")


def test_a_follow_up_is_asked_as_a_chat_or_alone():
    seen = {}

    def handler(request):
        seen.update(json.loads(request.content))
        message = {"role": "assistant", "content": " red "}
        usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
        return httpx.Response(200, json={"choices": [{"message": message}], "usage": usage})

    endpoint = Endpoint("http://host", "m", "none", 8, False)
    transport = httpx.MockTransport(handler)
    endpoint.client = endpoint.client.with_options(
        http_client=httpx.AsyncClient(transport=transport)
    )
    item = replace(ITEM, earlier=(("What is it?", "a bus"),))
    answer = asyncio.run(endpoint.ask(item, WHOLE))
    assert answer == {"answer": "red", "prompt_tokens": 5}
    assert seen["messages"] == item.request["messages"] and len(seen["messages"]) == 3
    assert seen["script"] == {"keep_ratio": 1.0}
    asyncio.run(endpoint.ask(item, WHOLE_ALONE))
    assert seen["messages"] == ITEM.request["messages"] and len(seen["messages"]) == 1
    assert seen["script"] == {"keep_ratio": 1.0}


def available(monkeypatch, message):
    """Sources left of all where an endpoint refuses clip in these words."""
    endpoint = Endpoint("http://host", "m", "none", 8, False)

    async def ask(item, setting):
        if setting.relevance == "clip":
            reply = httpx.Response(400, request=httpx.Request("POST", "http://host"))
            raise openai.BadRequestError(message, response=reply, body=None)

    monkeypatch.setattr(endpoint, "ask", ask)
    settings = asyncio.run(endpoint.available(ITEM, grid((0.5, 0.11))))
    assert [setting.keep_ratio for setting in settings].count(1.0) == 1
    return {setting.relevance for setting in settings}


def test_sources_that_the_model_does_not_have_are_left_out(monkeypatch):
    message = "relevance clip is not available on this server, embedding and none are"
    assert available(monkeypatch, message) == {None, "embedding", "lm-attention", "none"}


def test_answers_without_first_tokens_are_asked_again(tmp_path):
    path = tmp_path / "answers.jsonl"
    entries = [
        {"item": "1", "setting": "gsp @ 0.5", "answer": "red", "prompt_tokens": 9},
        {"item": "2", "setting": "gsp @ 0.5", "answer": "red", "prompt_tokens": 9, "first": {}},
    ]
    write_lines(path, entries)
    assert [item for item, _ in read_answers(path)] == ["1", "2"]
    assert [item for item, _ in read_answers(path, first_tokens=True)] == ["2"]


def test_other_refusals_are_errors(monkeypatch):
    with pytest.raises(openai.BadRequestError, match="no such model"):
        available(monkeypatch, "no such model")
