"""Prefill on one server and decode on another, which reads its KV cache by NIXL."""

import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from vllm_script.server.launch import _free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("nixl") is None, reason="nixl is not installed; pip install nixl"
    ),
]

QUESTIONS = ["What is shown?", "How many people are there?"]
PREFILL = {"do_remote_decode": True, "do_remote_prefill": False}
TRANSFER = {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu"}


@pytest.fixture(scope="module")
def start(vllm_server):
    """start(keep ratio) -> a server that is prefill or decode."""
    with ExitStack() as stack:

        def start(keep_ratio):
            flags = ("--plugin", "script", "--keep-ratio", str(keep_ratio))
            flags += ("--kv-transfer-config", json.dumps(TRANSFER))
            port = {"VLLM_NIXL_SIDE_CHANNEL_PORT": str(_free_port())}
            return stack.enter_context(vllm_server("llava-next", *flags, **port))

        yield start


@pytest.fixture(scope="module")
def servers(start):
    """Prefill, decode, and a decode that would prune otherwise."""
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(start, [0.11, 0.11, 0.2]))


def prefilled(server, parts, script):
    """What the decode server is to be told of the prompt."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "script": script}
    body |= {"max_tokens": 1, "temperature": 0, "kv_transfer_params": PREFILL}
    reply = httpx.post(f"{server.url}/chat/completions", json=body, timeout=300)
    assert reply.status_code == 200, reply.text
    return reply.json()["kv_transfer_params"]


def test_decode_answers_as_one_server(servers, pruning_server, picture, ask, metric):
    prefill, decode, _ = servers
    for seed in range(3):
        for question in QUESTIONS:
            for script in {}, {"keep_ratio": 0.3, "mode": "cdpruner"}, {"keep_ratio": 1.0}:
                parts = [picture(168, 168, seed=850 + seed), {"type": "text", "text": question}]
                told = prefilled(prefill, parts, script)
                answer = ask(decode, parts, script, kv_transfer_params=told)
                expected = ask(pruning_server, parts, script)
                assert answer.prompt_tokens == expected.prompt_tokens
                assert answer.token_ids == expected.token_ids
                assert answer.logprobs == pytest.approx(expected.logprobs, abs=1e-3)
    assert metric(decode, "vllm:external_prefix_cache_hits_total") > 0


def test_who_prunes_otherwise_is_refused(servers, picture, ask):
    prefill, _, otherwise = servers
    parts = [picture(168, 168, seed=860), {"type": "text", "text": QUESTIONS[0]}]
    told = prefilled(prefill, parts, {})
    body = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "max_tokens": 2}
    reply = httpx.post(
        f"{otherwise.url}/chat/completions", json=body | {"kv_transfer_params": told}, timeout=300
    )
    assert reply.status_code == 500, reply.text
    assert "NIXL compatibility hash mismatch" in otherwise.log()
    assert otherwise.log().count("-script-") >= 2
    ask(otherwise, parts)  # its engine is well
