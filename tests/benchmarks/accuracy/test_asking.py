"""What is asked of an endpoint."""

import asyncio

import httpx
import openai
import pytest

from vllm_script.benchmarks.accuracy.asking import Endpoint
from vllm_script.benchmarks.accuracy.questions import Item
from vllm_script.benchmarks.accuracy.settings import grid

ITEM = Item("1", "?", ("red",), "all", b"")


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
    assert available(monkeypatch, message) == {None, "embedding", "none"}


def test_other_refusals_are_errors(monkeypatch):
    with pytest.raises(openai.BadRequestError, match="no such model"):
        available(monkeypatch, "no such model")
