"""KV caches that lie outside of the engine never take one picture, question or plan for another."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from vllm_script.pruning import MODES

from ...chats import Chat, num_pictures

QUESTIONS = ["What is shown?", "How many people are there?"]
# A prompt is stored after the first step in which it has a part, so it must be read in that one.
FLAGS = ("--plugin", "script", "--keep-ratio", "0.11", "--max-num-batched-tokens", "16384")
AT_ONCE = 4
"""Requests that a server has at a time, each of at most 4,096 tokens."""


@pytest.fixture(scope="module")
def sharing_servers(vllm_server, tmp_path_factory):
    """Two servers that share a folder of KV caches, and have no others of prompts.

    vLLM's connector has been made to be read: a file is not there as a whole, and what it says of a
    prompt is wrong where the engine has it as well.
    """
    transfer = {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}
    folder = str(tmp_path_factory.mktemp("kv"))
    transfer["kv_connector_extra_config"] = {"shared_storage_path": folder}
    flags = (*FLAGS, "--no-enable-prefix-caching", "--kv-transfer-config", json.dumps(transfer))
    with (
        vllm_server("llava-next", *flags) as one,
        vllm_server("llava-next", *flags) as other,
    ):
        yield one, other


def random_request(rng, pictures):
    """Messages with a picture or more, and settings."""
    while True:
        chat = Chat(rng, pictures)
        if num_pictures(chat.messages):
            break
    if rng.random() < 0.7:
        chat.script |= {"mode": rng.choice(list(MODES))}
        chat.script |= {"relevance": rng.choice(["clip", "embedding", "none"])}
    return chat.messages, chat.script


def check_sharing(servers, uncached_server, picture, ask, metric, number):
    """Ask two servers, now this one and now that, `number` times, each thing about eight times."""
    rng = random.Random(number)
    sizes = [(84, 84), (100, 60), (168, 168)]
    pictures = [picture(*sizes[seed % 3], seed=740 + seed) for seed in range(4)]
    distinct = [random_request(rng, pictures) for _ in range(number // 8)]

    def answers(server, requests, **fields):
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(
                pool.map(lambda request: ask(server, *request, max_tokens=2, **fields), requests)
            )

    truth = answers(uncached_server, distinct)
    hits = "vllm:external_prefix_cache_hits_total"
    before = [metric(server, hits) for server in servers]
    asked = [rng.randrange(len(distinct)) for _ in range(number)]
    for start in range(0, number, AT_ONCE):
        some = asked[start : start + AT_ONCE]
        salt = rng.choice([{}, {}, {"cache_salt": "a"}, {"cache_salt": "b"}])
        got = answers(rng.choice(servers), [distinct[index] for index in some], **salt)
        for index, answer in zip(some, got, strict=True):
            expected, about = truth[index], f"request {index}, {distinct[index][1]}"
            assert answer.prompt_tokens == expected.prompt_tokens, about
            assert answer.logprobs[0] == pytest.approx(expected.logprobs[0], abs=1e-3), about
            if answer.token_ids[0] == expected.token_ids[0]:
                assert answer.logprobs[1] == pytest.approx(expected.logprobs[1], abs=1e-3), about
    for server, earlier in zip(servers, before, strict=True):
        assert metric(server, hits) > earlier


def test_50_requests_to_two_servers(sharing_servers, uncached_server, picture, ask, metric):
    check_sharing(sharing_servers, uncached_server, picture, ask, metric, 50)


@pytest.mark.slow
def test_1000_requests_to_two_servers(sharing_servers, uncached_server, picture, ask, metric):
    check_sharing(sharing_servers, uncached_server, picture, ask, metric, 1000)
