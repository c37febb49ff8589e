"""LLaVA-1.5: one tile, no newlines. The server is configured by YAML alone."""

import pytest

PATCHES = 36  # of the tiny checkpoint's one tile
SIZES = [(1, 1), (84, 84), (640, 480), (30, 400)]


@pytest.fixture(scope="module")
def stock(vllm_server):
    with vllm_server("llava-1.5", VLLM_PLUGINS="none") as server:
        yield server


@pytest.fixture(scope="module")
def pruning(vllm_server, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "script.yaml"
    path.write_text("plugin: script\nkeep-ratio: 0.25\nscript-relevance: embedding\n")
    with vllm_server("llava-1.5", "--config", str(path)) as server:
        yield server


def question(*images):
    return [*images, {"type": "text", "text": "What is shown?"}]


def test_counts(stock, pruning, picture, ask):
    for size in SIZES:
        parts = question(picture(*size), picture(*size, seed=1))
        whole = ask(stock, parts, max_tokens=1).prompt_tokens
        for script, kept in [
            (None, 9),
            ({"keep_ratio": 0.11}, 4),
            ({"visual_token_budget": 1}, 1),
            ({"visual_token_budget": 35}, 35),
            ({"visual_token_budget": 36}, 36),
        ]:
            pruned = ask(pruning, parts, script, max_tokens=1).prompt_tokens
            assert whole - pruned == 2 * (PATCHES - kept)


def test_keep_ratio_1_is_stock(stock, pruning, picture, ask):
    for size in SIZES:
        parts = question(picture(*size))
        one, other = ask(stock, parts), ask(pruning, parts, {"keep_ratio": 1.0})
        assert one.token_ids == other.token_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)


def test_pruned_answers_depend_on_picture_and_question(pruning, picture, ask):
    one, two = picture(84, 84, seed=1), picture(84, 84, seed=2)
    answers = [
        ask(pruning, question(image), {"query": query}).logprobs
        for image in (one, two)
        for query in ("the temple", "the people")
    ]
    assert len(set(answers)) == 4
