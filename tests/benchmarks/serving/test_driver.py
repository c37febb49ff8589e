"""The load generator's arguments, and its result."""

import json
from types import SimpleNamespace

import pytest

from vllm_script.benchmarks.serving.cells import Load
from vllm_script.benchmarks.serving.counters import Peaks
from vllm_script.benchmarks.serving.driver import (
    load_arguments,
    request_arguments,
    to_block,
    to_samples,
)
from vllm_script.benchmarks.serving.requests import Request, Size

RESULT = {
    "ttfts": [0.5, 0.7],
    "latencies": [0.8, 0.7],
    "output_lens": [4, 1],
    "input_lens": [110, 112],
    "errors": ["", ""],
    "request_throughput": 1.25,
}


def test_result_of_the_load_generator():
    block = to_block(RESULT, {"a": 1.0}, Peaks("http://server"))
    assert block.tpot == pytest.approx([0.1, 0.0])
    assert block.prompt_tokens == [110, 112] and block.output_tokens == [4, 1]
    assert block.requests_per_s == 1.25 and block.peak_running == 1


def test_arguments():
    both = (load_arguments(Load(concurrency=4), None, 7), load_arguments(Load(rate=2), 2, 7))
    assert both == (
        ["--max-concurrency", "4", "--seed", "7"], ["--request-rate", "2.0000", "--seed", "7"]
    )  # fmt: skip
    assert "--extra-body" not in request_arguments(16, None)
    assert json.loads(request_arguments(16, 0.11)[-1]) == {"script": {"keep_ratio": 0.11}}


def test_load_generator_sends_our_messages():
    requests = [Request("?", Size(84, 84), "data:a"), Request("!", Size(84, 84, 2), "data:b")]
    args = SimpleNamespace(custom_output_len=3, request_id_prefix="bench-")
    first, second = to_samples(requests, args)
    assert first.chat_messages == [requests[0].message]
    assert second.chat_messages[0]["content"][1]["video_url"] == {"url": "data:b"}
    assert first.expected_output_len == 3 and first.request_id != second.request_id


def test_vllm_knows_the_arguments():
    from vllm.benchmarks.serve import add_cli_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    arguments = [*load_arguments(Load(rate=2), 2.0, 7), *request_arguments(16, 0.11)]
    args = parser.parse_args(arguments)
    assert args.extra_body == {"script": {"keep_ratio": 0.11}} and args.ignore_eos
    assert args.request_rate == 2.0 and args.custom_output_len == 16
