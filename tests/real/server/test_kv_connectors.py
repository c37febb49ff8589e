"""KV caches that lie outside of the engine never take one picture, question or plan for another."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.slow

QUESTIONS = ["What is shown?", "How many people are there?"]
PRUNING = ("--plugin", "script", "--keep-ratio", "0.11", "--no-enable-prefix-caching")


@pytest.fixture(scope="module", params=["ExampleConnector"])
def connected_server(request, vllm_server, tmp_path_factory):
    """A server whose only cache of prompts is that of a connector."""
    folder = tmp_path_factory.mktemp("kv")
    transfer = {"kv_connector": request.param, "kv_role": "kv_both"}
    transfer["kv_connector_extra_config"] = {"shared_storage_path": str(folder)}
    flags = ("--kv-transfer-config", json.dumps(transfer))
    with vllm_server("llava-next", *PRUNING, *flags) as server:
        yield server


def requests(picture, number):
    rng = random.Random(8)
    for _ in range(number):
        text = {"type": "text", "text": rng.choice(QUESTIONS)}
        script = {"keep_ratio": rng.choice([0.11, 0.3, 1.0])}
        yield [picture(168, 168, seed=rng.randrange(3)), text], script


def test_answers_are_those_without_it(connected_server, pruning_server, picture, ask, metric):
    asked = list(requests(picture, 60))

    def answers(server):
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda request: ask(server, *request, max_tokens=4), asked))

    for answer, expected in zip(answers(connected_server), answers(pruning_server), strict=True):
        assert answer.prompt_tokens == expected.prompt_tokens
        assert answer.logprobs[0] == pytest.approx(expected.logprobs[0], abs=1e-3)
    assert metric(connected_server, "vllm:external_prefix_cache_hits_total") > 0


def test_equal_plans_hit_and_another_question_does_not(connected_server, picture, ask):
    image = picture(336, 200, seed=20)
    texts = [{"type": "text", "text": question} for question in QUESTIONS]
    script = {"keep_ratio": 0.6, "relevance": "embedding"}
    ask(connected_server, [image, texts[0]], script)
    assert ask(connected_server, [image, texts[0]], script).cached_tokens >= 64
    assert ask(connected_server, [image, texts[1]], script).cached_tokens == 0
    free = {"keep_ratio": 0.6, "mode": "uniform"}
    first = ask(connected_server, [image, texts[0]], free)
    assert ask(connected_server, [image, texts[0]], free).logprobs[0] == pytest.approx(
        first.logprobs[0], abs=1e-3
    )
