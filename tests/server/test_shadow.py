"""One comparison at a time, without an engine: what comes meanwhile is dropped and counted."""

import asyncio

from vllm_script.frontend.metrics import metrics
from vllm_script.server.shadow import Shadow

BODY = b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}'


def dropped():
    return metrics().shadow_requests.labels("dropped")._value.get()


async def answer_three_while_one_is_compared():
    shadow = Shadow(None, None)
    compared, may_end = [], asyncio.Event()

    async def compare(body):
        compared.append(body)
        await may_end.wait()

    shadow._compare = compare
    for _ in range(3):
        shadow._answered(BODY)
        await asyncio.sleep(0)
    may_end.set()
    await shadow._running
    shadow._answered(BODY)  # the first one is done
    await shadow._running
    return compared


def test_what_comes_meanwhile_is_dropped():
    before = dropped()
    compared = asyncio.run(answer_three_while_one_is_compared())
    assert (len(compared), dropped() - before) == (2, 2)


def test_texts_and_requests_that_asked_are_left_alone():
    before = dropped()
    shadow = Shadow(None, None)
    for body in (b'{"messages": []}', BODY[:-1] + b', "script": {}}'):
        shadow._answered(body)
    assert shadow._running is None and dropped() == before
