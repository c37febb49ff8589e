"""What the load generator is told, and what a server counts."""

from types import SimpleNamespace

import pytest

from vllm_script.benchmarks import scrape
from vllm_script.benchmarks.scrape import Scrape
from vllm_script.benchmarks.serving.driver import (
    kv_cache_tokens,
    load_arguments,
    to_samples,
    when_counted,
)
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
    args = parser.parse_args(load_arguments(None, 2.0, 16, 0.11, 7))
    assert args.extra_body == {"script": {"keep_ratio": 0.11}} and args.ignore_eos
    assert args.request_rate == 2.0 and args.custom_output_len == 16 and args.seed == 7
    args = parser.parse_args(load_arguments(4, None, 16, None, 7))
    assert args.max_concurrency == 4 and not args.extra_body


TEXT = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="bench"} 3.0
vllm:num_requests_running{engine="1",model_name="bench"} 2.0
vllm:request_queue_time_seconds_bucket{engine="0",le="0.3",model_name="bench"} 5.0
vllm:request_queue_time_seconds_count{engine="0",model_name="bench"} 5.0
vllm:request_queue_time_seconds_sum{engine="0",model_name="bench"} 0.00015193599938356783
vllm:cache_config_info{_block_size_resolved="True",block_size="128",num_gpu_blocks="512"} 1.0
script_encoder_seconds_sum 1.5e-01
"""


def test_totals_add_labels_up_and_leave_buckets_out():
    totals = Scrape(TEXT).totals
    assert totals["vllm:num_requests_running"] == 5
    assert totals["script_encoder_seconds_sum"] == 0.15
    assert totals["vllm:request_queue_time_seconds_sum"] == pytest.approx(1.519e-4, rel=1e-3)
    assert not any("bucket" in name for name in totals)


def test_labels_choose_samples():
    found = Scrape(TEXT)
    assert found.sum("vllm:num_requests_running", engine="1") == 2
    assert found.sum("vllm:num_requests_running", engine="1", model_name="other") == 0
    assert found.by("vllm:num_requests_running", "engine") == {"0": 3, "1": 2}


def test_kv_cache_tokens():
    assert kv_cache_tokens(Scrape(TEXT)) == 128 * 512
    assert kv_cache_tokens(Scrape("vllm:num_requests_running 3.0")) is None


def test_when_counted_waits_for_the_last_request(monkeypatch):
    answers = iter([1, 1, 2])
    name = "vllm:request_prompt_tokens_count"
    monkeypatch.setattr(scrape, "fetch", lambda root: Scrape(f"{name} {next(answers)}\nnew 1.0"))
    assert when_counted("http://server", Scrape(f"{name} 0.0"), 2) == {name: 2, "new": 1}


def test_requests_of_others_are_noticed(monkeypatch):
    text = "vllm:request_prompt_tokens_count 3"
    monkeypatch.setattr(scrape, "fetch", lambda root: Scrape(text))
    with pytest.raises(RuntimeError, match="counted 3 requests for 2"):
        when_counted("http://server", Scrape(""), 2)
