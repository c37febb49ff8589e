"""Chats whose later questions are timed, without a server."""

from types import SimpleNamespace

import pytest

from vllm_script.benchmarks import conversation_bench
from vllm_script.benchmarks.serving.checks import WrongOutputs

ARGS = SimpleNamespace(size="84x84", input_tokens=8, turns=3)


def test_a_chat(expected):
    messages = conversation_bench.chat(ARGS, expected.tokenizer, (1, 0))
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2 + ["user"]
    assert [part["type"] for part in messages[0]["content"]] == ["text", "image_url"]
    questions = [messages[0]["content"][0]["text"], messages[2]["content"], messages[4]["content"]]
    assert len(set(questions)) == 3
    assert {len(expected.tokenizer.encode(q, add_special_tokens=False)) for q in questions} == {8}
    other = conversation_bench.chat(ARGS, expected.tokenizer, (1, 0))
    assert other[1:] == messages[1:] and other[0]["content"][0] == messages[0]["content"][0]
    assert other[0]["content"][1] != messages[0]["content"][1], "a picture that is known"


PRUNED = dict.fromkeys(("turn", "latest", "all"), [40, 60])


def test_prompts_are_as_long_under_every_policy():
    conversation_bench.check({"stock": [100, 120]} | PRUNED)
    for wrong in ({"latest": [40, 61]}, {"stock": [100, 60]}):
        with pytest.raises(WrongOutputs, match="prompts of the turns have these tokens"):
            conversation_bench.check({"stock": [100, 120]} | PRUNED | wrong)


def test_the_report():
    seconds = {arm: [[1.0, 0.2], [1.2, 0.4], [1.1, 0.3]] for arm in conversation_bench.ARMS}
    seconds["all"] = [[turn / 2 for turn in chat] for chat in seconds["stock"]]
    text = conversation_bench.report({"model": "tiny"}, seconds)
    assert "Medians of 3 chats" in text
    assert "| stock | 1100 | 300 |  |  |" in text
    assert "| all | 550 | 150 | 0.500 (0.500 to 0.500) | 0.500 (0.500 to 0.500) |" in text
