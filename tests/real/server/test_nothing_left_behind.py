"""Requests that end early, or wait long, leave the engine as they found it."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest


@pytest.fixture
def becomes(uncached_server, metric):
    """becomes(running, waiting): wait, 60 s at most, until the server has as many requests.

    vLLM sets these gauges only after the answers of a step have left for their clients.
    """

    def becomes(*expected):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            names = "vllm:num_requests_running", "vllm:num_requests_waiting"
            found = tuple(metric(uncached_server, name) for name in names)
            if found == expected:
                return
            time.sleep(0.1)
        pytest.fail(f"running and waiting requests: {found}, expected {expected}")

    return becomes


@pytest.fixture(autouse=True)
def idle_in_the_end(becomes):
    yield
    becomes(0, 0)


def body(picture, seed, **more):
    content = [picture(168, 168, seed=seed), {"type": "text", "text": "What is shown?"}]
    messages = [{"role": "user", "content": content}]
    return {"model": "tiny", "temperature": 0, "messages": messages} | more


def test_cancelled_stream(uncached_server, picture, becomes):
    client = openai.OpenAI(base_url=uncached_server.url, api_key="none", max_retries=0)
    endless = body(picture, 800, max_tokens=3000, stream=True)
    stream = client.chat.completions.create(**endless, extra_body={"ignore_eos": True})
    next(iter(stream))
    becomes(1, 0)
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
