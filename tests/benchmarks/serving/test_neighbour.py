"""What the clients beside a bad neighbour see, without a server."""

import asyncio
import json
from dataclasses import replace

import httpx
import pytest

from vllm_script.benchmarks import neighbour_bench
from vllm_script.benchmarks.common import read_lines
from vllm_script.benchmarks.serving import neighbour
from vllm_script.benchmarks.serving.cells import SCRIPT, STOCK, Arm
from vllm_script.benchmarks.serving.checks import WrongOutputs
from vllm_script.benchmarks.serving.fleet import Target
from vllm_script.benchmarks.serving.neighbour import Load, run_block, stream

TARGET = Target("script", "http://server", "model")
PROMPTS = [{"role": "user", "content": f"pictures {n}"} for n in range(20)]
LOAD = Load([["a", "b"], ["c", "d"]], 3, PROMPTS, 90, 0.11)


@pytest.fixture
def sent(monkeypatch):
    """Bodies that are sent to a server whose tokens take a hundredth of a second each."""
    bodies = []

    async def answer(http, body, gaps):
        bodies.append(body)
        for _ in range(body["max_tokens"] - 1):
            await asyncio.sleep(0.01)
            gaps.append(0.01)
        tokens = 90 if "pictures" in body["messages"][0]["content"] else 7
        return {"prompt_tokens": tokens, "completion_tokens": body["max_tokens"]}

    monkeypatch.setattr(neighbour, "stream", answer)
    return bodies


def test_a_block_lasts_as_long_as_the_neighbour(sent):
    gaps = asyncio.run(run_block(TARGET, LOAD))
    neighbours = [body for body in sent if "script" in body]
    assert [body["messages"][0] for body in neighbours] == PROMPTS
    assert neighbours[0]["script"] == {"keep_ratio": 0.11}
    asked = [body["messages"][0]["content"] for body in sent if "script" not in body]
    assert set(asked) == {"a", "b", "c", "d"} and len(asked) > 4
    assert 2 * len(asked) - 4 <= len(gaps) <= 2 * len(asked)  # the last answers are cut


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"prompt_tokens": 91}, "expected 91 in"), ({"output_tokens": 4}, "instead of 4 tokens")],
)
def test_what_makes_a_block_worthless(sent, monkeypatch, changes, words):
    answer = neighbour.stream

    async def three_tokens(http, body, gaps):
        return {**await answer(http, body, gaps), "completion_tokens": 3}

    monkeypatch.setattr(neighbour, "stream", three_tokens)
    with pytest.raises(WrongOutputs, match=words):
        asyncio.run(run_block(TARGET, replace(LOAD, **changes)))


def ask(status, text):
    async def run():
        transport = httpx.MockTransport(lambda request: httpx.Response(status, text=text))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
            gaps = []
            return gaps, await stream(http, {}, gaps)

    return asyncio.run(run())


def test_a_stream():
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    chunks = [{"choices": [{"delta": {"role": "assistant", "content": ""}}]}]
    chunks += [{"choices": [{"delta": {"content": text}}]} for text in ("a", "")]
    chunks.append({"choices": [], "usage": usage})
    lines = [*(f"data: {json.dumps(chunk)}" for chunk in chunks), "data: [DONE]"]
    gaps, found = ask(200, "\n\n".join(lines))
    assert len(gaps) == 1 and found == usage


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
            [(1.1 if arm.asked else 1.0) * 0.1 * (1 + n // 2)] * 5,
            about,
        )
        for n, arm in enumerate(arms)
    ]


def test_the_verdict(lines):
    assert neighbour_bench.p99_ratio(lines).value == pytest.approx(1.1)
    text = neighbour_bench.report(lines, 1.2)
    assert "1.10 times stock's, at most 1.2" in text
    assert "| stock | 2 | 10 | 150 | 200 | 200 | 200 | 100, 200 | 90 |" in text
    assert "**more than** 1.05" in neighbour_bench.report(lines, 1.05)


def test_the_committed_report_follows_from_its_lines(committed):
    path = committed("neighbour")
    lines = read_lines(path.with_suffix(".jsonl"))
    assert path.read_text() == neighbour_bench.report(lines, 1.2)
    assert neighbour_bench.p99_ratio(lines).high < 1.2


def test_the_neighbour_sends_what_nobody_has_seen(expected):
    args = neighbour_bench.parse_arguments(["--size", "84x84", "--items", "2", "--clients", "3"])
    stock, other = (
        neighbour_bench.load_of(args, expected, arm, 1) for arm in (Arm(STOCK), Arm(SCRIPT, 0.11))
    )
    assert stock.questions == other.questions and list(map(len, stock.questions)) == [4, 4, 4]
    assert stock.prompt_tokens - other.prompt_tokens == 2 * (78 - 9)
    urls = [
        part["image_url"]["url"]
        for load in (stock, other)
        for message in load.prompts
        for part in message["content"][1:]
    ]
    assert len(set(urls)) == len(urls) == 4 * args.prompts
