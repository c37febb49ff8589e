"""Installed but not asked for, or asked to keep everything, it is vLLM as it is."""

import random
import re

import pytest

SIZES = [(168, 168), (200, 90), (84, 230), (37, 41)]
QUESTIONS = ["What is shown here?", "How many people are there?", "Read the sign.", "Why?"]


def prompts(picture):
    """20 prompts with 1 to 3 images of 4 aspect ratios, at any position in the text."""
    rng = random.Random(0)
    for number in range(20):
        parts = [
            picture(*rng.choice(SIZES), seed=rng.randrange(1000)) for _ in range(number % 3 + 1)
        ]
        for text in rng.sample(QUESTIONS, 2):
            parts.insert(rng.randint(0, len(parts)), {"type": "text", "text": text})
        yield parts


@pytest.fixture(scope="module")
def unused_server(vllm_server):
    """The plugin installed, nothing asked of it; else as `stock_server`."""
    with vllm_server("llava-next", "--enable-scale-out") as server:
        yield server


@pytest.fixture(scope="module")
def stock_answers(stock_server, picture, ask):
    return [ask(stock_server, parts) for parts in prompts(picture)]


@pytest.mark.parametrize(
    "server, script",
    [
        pytest.param("unused_server", None, id="unused"),
        pytest.param("pruning_server", {"keep_ratio": 1.0}, id="keep everything"),
        pytest.param("pruning_server", {"visual_token_budget": 192}, id="budget covers images"),
    ],
)
def test_answers_are_stock(server, script, stock_answers, request, picture, ask):
    server = request.getfixturevalue(server)
    for parts, stock in zip(prompts(picture), stock_answers, strict=True):
        answer = ask(server, parts, script)
        assert answer.prompt_tokens == stock.prompt_tokens
        assert answer.token_ids == stock.token_ids
        assert answer.logprobs == pytest.approx(stock.logprobs, abs=1e-3)


def test_answers_depend_on_the_picture(stock_answers):
    """Else the comparisons above would show nothing."""
    assert len({answer.logprobs for answer in stock_answers}) == len(stock_answers)


def test_unused_logs_are_stock(stock_server, unused_server):
    assert start_up_lines(unused_server) == start_up_lines(stock_server)


def start_up_lines(server):
    """Log lines until it answers, without what differs between any two starts."""
    lines = []
    for line in server.log().splitlines():
        if "Application startup complete" in line:
            break
        line = re.sub(
            r"(\d+-\d+|\[W\d+) \d+:\d+:\S+|pid=\d+|process \[\d+\]|\d+\.\d+|\b\d{4,6}\b", "#", line
        )
        lines.append(re.sub(r"'port': \S+|/tmp/\S+|\S*(tcp|ipc)://\S+", "#", line))
    return sorted(lines)
