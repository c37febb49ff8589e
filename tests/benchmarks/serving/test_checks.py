"""Wrong outputs are found."""

import math
from types import SimpleNamespace

import pytest

from vllm_script.benchmarks.serving import checks
from vllm_script.benchmarks.serving.checks import WrongOutputs, check_block, check_off_is_stock
from vllm_script.benchmarks.serving.fleet import Target
from vllm_script.benchmarks.serving.requests import Request, Size


def test_right_block_passes(block):
    check_block(block(), [110, 110], 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(errors=["", "Internal Server Error"]), "1 requests failed.*Internal"),
        (dict(prompt_tokens=230), "230 prompt tokens, expected 110"),
        (dict(output_lens=[3, 2]), "request 1 got 2 tokens, asked for 3"),
        (dict(grown={"vllm:mm_cache_hits_total": 1.0}), "1 pictures were in the server's cache"),
    ],
)
def test_wrong_block(block, changes, words):
    with pytest.raises(WrongOutputs, match=words):
        check_block(block(**changes), [110, 110], 3)


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        (((1, 2), 110), ((1, 2), 110), None),
        (((1, 2), 110), ((1, 3), 110), r"answers picture 0 with the tokens \(1, 3\)"),
        (((1, 2), 110), ((1, 2), 111), "script has 111 tokens.*84x84, expected 110"),
        (((1, 2), 109), ((1, 2), 109), "stock has 109"),
    ],
)
def test_off_is_stock(monkeypatch, theirs, ours, words):
    stock, script = Target("stock", "http://a", "m"), Target("script", "http://b", "m")
    answers = {"stock": theirs, "script": ours}
    monkeypatch.setattr(checks, "ask", lambda target, *rest: answers[target.kind])
    check = (stock, script, [Request("?", Size(84, 84), "data:")], [110], 2, 1.0)
    if words is None:
        check_off_is_stock(*check)
    else:
        with pytest.raises(WrongOutputs, match=words):
            check_off_is_stock(*check)


@pytest.mark.parametrize(
    ("tie", "likeliest", "passes"),
    [
        (0.0, {"token_id:2": -1.0, "token_id:3": -1.0}, False),  # float32 has no ties
        (0.1, {"token_id:2": -1.0, "token_id:3": -1.05}, True),
        (0.1, {"token_id:2": -1.0, "token_id:3": -1.2}, False),
        (0.1, {"token_id:2": -1.0, "token_id:7": -1.0}, False),  # not what the other one says
    ],
)
def test_a_tie_between_two_tokens_in_16_bits(monkeypatch, tie, likeliest, passes):
    """Stock answers (1, 2, 5), the other one (1, 3, 8)."""

    def complete(target, request, output_tokens, keep_ratio, **settings):
        tokens = (1, 2, 5) if target.kind == "stock" else (1, 3, 8)
        top = [SimpleNamespace(token=token, logprob=p) for token, p in likeliest.items()]
        content = [SimpleNamespace(top_logprobs=top)] * 3
        choice = SimpleNamespace(token_ids=tokens, logprobs=SimpleNamespace(content=content))
        return SimpleNamespace(choices=[choice], usage=SimpleNamespace(prompt_tokens=110))

    monkeypatch.setattr(checks, "_complete", complete)
    stock, script = Target("stock", "http://a", "m"), Target("script", "http://b", "m")
    check = (stock, script, [Request("?", Size(84, 84), "data:")], [110], 3, 1.0, tie)
    if passes:
        check_off_is_stock(*check)
    else:
        with pytest.raises(WrongOutputs, match="answers picture 0"):
            check_off_is_stock(*check)
    assert checks.gap(stock, check[2][0], (9,), 3, 3) == math.inf  # another answer than before
