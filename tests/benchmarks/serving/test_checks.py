"""Wrong outputs are found."""

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
