"""Requests that end early, or wait long, leave the engine as they found it."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest


@pytest.fixture(autouse=True)
def idle_in_the_end(uncached_server, metric):
    yield
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        running = metric(uncached_server, "vllm:num_requests_running")
        waiting = metric(uncached_server, "vllm:num_requests_waiting")
        if running == waiting == 0:
            return
        time.sleep(0.5)
    pytest.fail(f"{running} requests still running, {waiting} waiting")


def body(picture, seed, **more):
    content = [picture(168, 168, seed=seed), {"type": "text", "text": "What is shown?"}]
    messages = [{"role": "user", "content": content}]
    return {"model": "tiny", "temperature": 0, "messages": messages} | more


def test_cancelled_stream(uncached_server, picture, metric):
    client = openai.OpenAI(base_url=uncached_server.url, api_key="none", max_retries=0)
    endless = body(picture, 800, max_tokens=3000, stream=True)
    stream = client.chat.completions.create(**endless, extra_body={"ignore_eos": True})
    next(iter(stream))
    assert metric(uncached_server, "vllm:num_requests_running") == 1
    stream.close()


def test_client_that_goes_away_while_it_waits(uncached_server, picture):
    data = json.dumps(body(picture, 801, max_tokens=3000, ignore_eos=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
    with socket.create_connection(("127.0.0.1", uncached_server.port)) as connection:
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
        time.sleep(0.05)


def test_64_requests_on_a_tiny_kv_cache(uncached_server, picture, ask):
    """129 blocks hold 18 of these prompts at a time."""
    images = [picture(168, 168, seed=seed) for seed in range(8)]
    text = {"type": "text", "text": "What is shown?"}
    whole = {"keep_ratio": 1.0}

    def answer(number):
        return ask(uncached_server, [images[number % 8], text], whole if number % 2 else None)

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(answer, range(64)))
    for first, other in zip(answers[:8], answers[56:], strict=True):
        assert first.prompt_tokens == other.prompt_tokens
        assert first.logprobs[0] == pytest.approx(other.logprobs[0], abs=1e-3)
