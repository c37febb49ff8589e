"""What the clients beside a bad neighbour see, without a server."""

import asyncio
import json
from dataclasses import replace

import httpx
import pytest

from vllm_script.benchmarks import neighbour_bench
from vllm_script.benchmarks.serving import neighbour
from vllm_script.benchmarks.serving.cells import SCRIPT, STOCK, Arm
from vllm_script.benchmarks.serving.checks import WrongOutputs
from vllm_script.benchmarks.serving.fleet import Target
from vllm_script.benchmarks.serving.neighbour import Load, Outcome, run_block, stream

TARGET = Target("script", "http://server", "model")
PROMPTS = [{"role": "user", "content": f"pictures {n}"} for n in range(50)]
LOAD = Load([["a", "b"], ["c", "d"]], 3, PROMPTS, 90, 0.11)


@pytest.fixture
def sent(monkeypatch):
    """Bodies that are sent to a server whose tokens take a hundredth of a second each."""
    bodies = []

    async def answer(http, body):
        bodies.append(body)
        number = body["max_tokens"]
        await asyncio.sleep(0.01 * number)
        tokens = 90 if "pictures" in body["messages"][0]["content"] else 7
        times = [0.01 * token for token in range(number)]
        return times, {"prompt_tokens": tokens, "completion_tokens": number}

    monkeypatch.setattr(neighbour, "stream", answer)
    return bodies


def test_a_block(sent):
    outcome = asyncio.run(run_block(TARGET, LOAD))
    assert outcome.gaps == pytest.approx([0.01] * 8)  # two gaps in each of four answers
    neighbours = [body for body in sent if "script" in body]
    assert len(sent) - len(neighbours) == 4
    assert neighbours[0]["script"] == {"keep_ratio": 0.11}
    assert 1 <= outcome.prompts <= len(neighbours)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": PROMPTS[:1]}, "ran out of prompts"),
        ({"prompt_tokens": 91}, "expected 91 in"),
        ({"questions": []}, "no prompt of the neighbour was answered"),
    ],
)
def test_what_makes_a_block_worthless(sent, changes, words):
    with pytest.raises(WrongOutputs, match=words):
        asyncio.run(run_block(TARGET, replace(LOAD, **changes)))


def test_answers_of_another_length(sent, monkeypatch):
    answer = neighbour.stream

    async def shorter(http, body):
        times, usage = await answer(http, body)
        return times, usage | {"completion_tokens": 1}

    monkeypatch.setattr(neighbour, "stream", shorter)
    with pytest.raises(WrongOutputs, match="instead of 3 tokens"):
        asyncio.run(run_block(TARGET, LOAD))


def ask(status, text):
    async def run():
        transport = httpx.MockTransport(lambda request: httpx.Response(status, text=text))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
            return await stream(http, {})

    return asyncio.run(run())


def test_a_stream():
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    chunks = [{"choices": [{"delta": {"role": "assistant", "content": ""}}]}]
    chunks += [{"choices": [{"delta": {"content": text}}]} for text in ("a", "")]
    chunks.append({"choices": [], "usage": usage})
    lines = [*(f"data: {json.dumps(chunk)}" for chunk in chunks), "data: [DONE]"]
    times, found = ask(200, "\n\n".join(lines))
    assert len(times) == 2 and found == usage


def test_a_refusal():
    with pytest.raises(httpx.HTTPStatusError, match="too long"):
        ask(400, "too long")


@pytest.fixture
def lines():
    """Two blocks of each server, in turns; the plugin's times are 1.1 times stock's."""
    about = {"model": "tiny", "command": "python benchmarks/neighbour_bench.py"}
    arms = [Arm(STOCK), Arm(SCRIPT, 0.11), Arm(SCRIPT, 0.11), Arm(STOCK)]
    return [
        neighbour_bench.line_of(
            arm,
            n // 2,
            LOAD,
            Outcome([(1.1 if arm.asked else 1.0) * 0.1 * (1 + n // 2)] * 5, 3),
            about,
        )
        for n, arm in enumerate(arms)
    ]


def test_the_verdict(lines):
    assert neighbour_bench.p99_ratio(lines).value == pytest.approx(1.1)
    text = neighbour_bench.report(lines, 1.2)
    assert "1.10 times stock's, at most 1.2" in text
    assert "| stock | 2 | 10 | 150 | 200 | 200 | 200 | 100, 200 | 6 | 90 |" in text
    assert "**more than** 1.05" in neighbour_bench.report(lines, 1.05)


def test_the_neighbour_sends_what_nobody_has_seen(expected):
    args = neighbour_bench.parse_arguments(["--size", "84x84", "--items", "2", "--clients", "3"])
    stock, other = (
        neighbour_bench.load_of(args, expected, arm, 1, 2)
        for arm in (Arm(STOCK), Arm(SCRIPT, 0.11))
    )
    assert stock.questions == other.questions and list(map(len, stock.questions)) == [2, 2, 2]
    assert stock.prompt_tokens - other.prompt_tokens == 2 * (78 - 9)
    urls = [
        part["image_url"]["url"]
        for load in (stock, other)
        for message in load.prompts
        for part in message["content"][1:]
    ]
    assert len(set(urls)) == len(urls) == 4 * neighbour_bench.MOST_PROMPTS
