"""KV caches that lie outside of the engine never take one picture, question or plan for another."""

import json
import pathlib
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
HITS = "vllm:external_prefix_cache_hits_total"


def in_a_folder(folder):
    """vLLM's `ExampleConnector`.

    It has been made to be read: a file is not there as a whole, and what it says of a prompt is
    wrong where the engine has it as well.
    """
    options = {"shared_storage_path": str(folder)}
    return {"kv_connector": "ExampleConnector", "kv_connector_extra_config": options}


def in_memory(folder):
    """vLLM's `OffloadingConnector`, whose worker vLLM has for GPUs alone."""
    options = {"spec_name": "OffloadingInMemory", "spec_module_path": "offloading_in_memory"}
    options["cpu_bytes_to_use"] = 2**28
    return {"kv_connector": "OffloadingConnector", "kv_connector_extra_config": options}


def combined(folder):
    """vLLM's `MultiConnector`: what the one does not have, the other may."""
    both = [{**make(folder), "kv_role": "kv_both"} for make in (in_memory, in_a_folder)]
    return {"kv_connector": "MultiConnector", "kv_connector_extra_config": {"connectors": both}}


def connected(transfer):
    """Flags and environment of a server whose only cache of prompts is a connector's."""
    flags = (*FLAGS, "--no-enable-prefix-caching")
    flags += ("--kv-transfer-config", json.dumps({**transfer, "kv_role": "kv_both"}))
    return flags, {"PYTHONPATH": str(pathlib.Path(__file__).parent)}


@pytest.fixture(
    scope="module",
    params=[in_a_folder, in_memory, pytest.param(combined, id="in_memory and in_a_folder")],
)
def connected_server(request, vllm_server, tmp_path_factory):
    flags, env = connected(request.param(tmp_path_factory.mktemp("kv")))
    with vllm_server("llava-next", *flags, **env) as server:
        yield server


@pytest.fixture(scope="module")
def sharing_servers(vllm_server, tmp_path_factory):
    """Two servers that share a folder of KV caches."""
    flags, env = connected(in_a_folder(tmp_path_factory.mktemp("kv")))
    with (
        vllm_server("llava-next", *flags, **env) as one,
        vllm_server("llava-next", *flags, **env) as other,
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


def same(answer, expected, about=""):
    """Two answers are the same, but for what float32 rounds."""
    assert answer.prompt_tokens == expected.prompt_tokens, about
    assert answer.logprobs[0] == pytest.approx(expected.logprobs[0], abs=1e-3), about
    if answer.token_ids[0] == expected.token_ids[0]:
        assert answer.logprobs[1] == pytest.approx(expected.logprobs[1], abs=1e-3), about


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
    before = [metric(server, HITS) for server in servers]
    asked = [rng.randrange(len(distinct)) for _ in range(number)]
    for start in range(0, number, AT_ONCE):
        some = asked[start : start + AT_ONCE]
        salt = rng.choice([{}, {}, {"cache_salt": "a"}, {"cache_salt": "b"}])
        got = answers(rng.choice(servers), [distinct[index] for index in some], **salt)
        for index, answer in zip(some, got, strict=True):
            same(answer, truth[index], f"request {index}, {distinct[index][1]}")
    for server, earlier in zip(servers, before, strict=True):
        assert metric(server, HITS) > earlier


def test_50_requests_to_two_servers(sharing_servers, uncached_server, picture, ask, metric):
    check_sharing(sharing_servers, uncached_server, picture, ask, metric, 50)


@pytest.mark.slow
def test_1000_requests_to_two_servers(sharing_servers, uncached_server, picture, ask, metric):
    check_sharing(sharing_servers, uncached_server, picture, ask, metric, 1000)


@pytest.mark.slow
def test_answers_are_those_without_it(connected_server, pruning_server, picture, ask, metric):
    rng = random.Random(8)
    asked = []
    for _ in range(40):
        text = {"type": "text", "text": rng.choice(QUESTIONS)}
        script = {"keep_ratio": rng.choice([0.11, 0.3, 1.0])}
        asked.append(([picture(168, 168, seed=rng.randrange(3)), text], script))

    def answers(server):
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda request: ask(server, *request, max_tokens=2), asked))

    for answer, expected in zip(answers(connected_server), answers(pruning_server), strict=True):
        same(answer, expected)
    assert metric(connected_server, HITS) > 0


@pytest.mark.slow
def test_equal_plans_hit_and_others_do_not(connected_server, picture, ask):
    image, other_image = (picture(336, 200, seed=seed) for seed in (20, 21))
    texts = [{"type": "text", "text": question} for question in QUESTIONS]
    script = {"keep_ratio": 0.6, "relevance": "embedding"}
    first = ask(connected_server, [image, texts[0]], script)
    again = ask(connected_server, [image, texts[0]], script)
    assert again.cached_tokens >= 64
    same(again, first)
    # The same length, and the same ids of tokens but for the question.
    for others in [image, texts[1]], [other_image, texts[0]]:
        assert ask(connected_server, others, script).cached_tokens == 0
    for changed in {"mode": "cdpruner"}, {"relevance": "clip"}, {"keep_ratio": 0.59}:
        assert ask(connected_server, [image, texts[0]], script | changed).cached_tokens == 0
    free = {"keep_ratio": 0.6, "mode": "uniform"}
    first = ask(connected_server, [image, texts[0]], free)
    same(ask(connected_server, [image, texts[0]], free), first)
