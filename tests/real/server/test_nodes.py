"""vLLM's data parallelism over two nodes, which are this machine twice: one engine on each."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest

from vllm_script.server.launch import _free_port

from ...conftest import ENGINE_FLAGS, ENVIRONMENT

pytestmark = pytest.mark.slow

PRUNING = ("--plugin", "script", "--keep-ratio", "0.11")
QUESTIONS = ["What is shown?", "How many people are there?", "Read the sign.", "Where is the car?"]


@pytest.fixture(scope="module")
def two_nodes(checkpoint, vllm_server):
    """A server with one engine here, and another one on a node without an API server."""
    flags = ("--data-parallel-size", "2", "--data-parallel-size-local", "1")
    flags += ("--data-parallel-address", "127.0.0.1")
    flags += ("--data-parallel-rpc-port", str(_free_port()), *PRUNING)
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"]
    command += [str(checkpoint("llava-next")), *ENGINE_FLAGS, *flags]
    command += ["--headless", "--data-parallel-start-rank", "1"]
    with mock.patch.dict(os.environ, ENVIRONMENT | {"TRITON_INTERPRET": "0"}, clear=True):
        other = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with vllm_server("llava-next", *flags) as server:
            yield server
    finally:
        other.terminate()
        other.wait(timeout=60)


def test_both_engines_answer_as_one_server(two_nodes, pruning_server, picture, ask, metric):
    requests = [
        [picture(168, 168, seed=900 + seed), {"type": "text", "text": question}]
        for seed in range(4)
        for question in QUESTIONS
    ]

    def answers(server):
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda parts: ask(server, parts, max_tokens=4), requests))

    for answer, expected in zip(answers(two_nodes), answers(pruning_server), strict=True):
        assert answer.prompt_tokens == expected.prompt_tokens
        assert answer.logprobs[0] == pytest.approx(expected.logprobs[0], abs=1e-3)
    for engine in "01":
        assert metric(two_nodes, "vllm:request_success_total", engine=engine) > 0
    # An engine looks up what its own encoder cache lacks, and both engines' look-ups are counted.
    looked_up = [
        metric(two_nodes, f"script_cache_{kind}_total", cache="features")
        for kind in ("hits", "misses")
    ]
    assert sum(looked_up) == len(requests)
