"""The load generator's arguments and requests."""

from types import SimpleNamespace

from vllm_script.benchmarks.serving.cells import Load
from vllm_script.benchmarks.serving.driver import load_arguments, to_samples
from vllm_script.benchmarks.serving.requests import Request, Size


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
    args = parser.parse_args(load_arguments(Load(rate=2), 2.0, 7, 16, 0.11))
    assert args.extra_body == {"script": {"keep_ratio": 0.11}} and args.ignore_eos
    assert args.request_rate == 2.0 and args.custom_output_len == 16 and args.seed == 7
    args = parser.parse_args(load_arguments(Load(concurrency=4), None, 7, 16, None))
    assert args.max_concurrency == 4 and not args.extra_body
