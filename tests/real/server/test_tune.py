"""`vllm-script tune` on a log of requests: of a server that prunes, and of one that does not."""

import json

import pytest


@pytest.fixture
def tune(vllm_script, picture, tmp_path):
    """tune(server) -> status, what it prints, what it says on stderr; nearly any loss will do."""
    with (tmp_path / "log.jsonl").open("w") as out:
        for seed in range(12):
            content = [picture(112, 112, seed), {"type": "text", "text": "What is shown?"}]
            print(json.dumps({"messages": [{"role": "user", "content": content}]}), file=out)

    def tune(server):
        words = ["--url", server.url, "--log", tmp_path / "log.jsonl", "--out", tmp_path / "out"]
        words += ["--loss", 90, "--max-tokens", 1, "--ratios", 0.5, 0.22, "--api-key", "x"]
        return vllm_script("tune", *words, "--modes", "script", "random")

    return tune


def test_of_a_server_that_prunes(tune, pruning_server, metric, tmp_path):
    encoded = metric(pruning_server, "script_encoder_seconds_count")
    status, shown, error = tune(pruning_server)
    assert status == 0, error
    assert shown.strip().startswith("vllm serve tiny --plugin script --keep-ratio 0.22")
    answers = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").open()]
    tokens = {}
    for answer in answers:
        tokens.setdefault(answer["setting"].split("@ ")[1], set()).add(answer["prompt_tokens"])
    (whole,), (half,), (fifth,) = tokens["1"], tokens["0.5"], tokens["0.22"]
    assert whole > half > fifth
    # Each picture is encoded once, and anew whenever it is timed.
    assert metric(pruning_server, "script_encoder_seconds_count") - encoded >= 12 + 13


def test_of_a_server_without_the_plugin(tune, stock_server):
    status, shown, error = tune(stock_server)
    assert status == 2 and not shown
    assert "does not prune" in error and "--plugin script" in error and error.count("\n") == 1
