"""Explanations that several ask for at once: one at a time, in order, and few may wait."""

import asyncio
import threading

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from vllm_script.server import explain

BODY = {"messages": [{"role": "user", "content": "What?"}]}


@pytest.fixture
def app(monkeypatch):
    app = FastAPI()
    app.include_router(explain.router)
    monkeypatch.setattr(explain, "_one_at_a_time", asyncio.Lock())
    monkeypatch.setattr(explain, "_places", asyncio.Semaphore(1 + explain.MOST_WAITING))
    return app


def test_in_order_and_no_more_than_may_wait(app, monkeypatch):
    made, running = [], []

    async def made_slowly(request, state):
        running.append(request.seed)
        await asyncio.sleep(0.02)
        assert running == [request.seed]
        made.append(running.pop())
        return JSONResponse({})

    monkeypatch.setattr(explain, "_explain", made_slowly)
    allowed = 1 + explain.MOST_WAITING

    async def ask_at_once(count):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            path = "/v1/script/explain"
            asked = [client.post(path, json=BODY | {"seed": number}) for number in range(count)]
            return await asyncio.gather(*asked)

    replies = asyncio.run(ask_at_once(allowed + 2))
    assert [reply.status_code for reply in replies] == [200] * allowed + [429] * 2
    assert made == list(range(allowed))
    assert replies[-1].headers["retry-after"] == "1"
    assert "one explanation at a time" in replies[-1].json()["error"]["message"]


def test_a_drawing_that_nobody_waits_for_is_finished_before_the_next():
    goes_on, ended = threading.Event(), []

    def draw():
        goes_on.wait(10)
        ended.append("drawn")

    async def leave():
        task = asyncio.create_task(explain._in_a_thread(draw))
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done()
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert ended == ["drawn"]
