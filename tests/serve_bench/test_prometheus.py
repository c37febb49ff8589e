"""What /metrics says."""

import pytest
from serve import prometheus
from serve.prometheus import change, kv_cache_tokens, parse, when_counted

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


def test_parse_adds_labels_up_and_leaves_buckets_out():
    metrics = parse(TEXT)
    assert metrics["vllm:num_requests_running"] == 5
    assert metrics["script_encoder_seconds_sum"] == 0.15
    assert metrics["vllm:request_queue_time_seconds_sum"] == pytest.approx(1.519e-4, rel=1e-3)
    assert not any("bucket" in name for name in metrics)


def test_kv_cache_tokens():
    assert kv_cache_tokens(TEXT) == 128 * 512
    assert kv_cache_tokens("vllm:num_requests_running 3.0") is None


def test_change_counts_what_is_new_from_zero():
    assert change({"a": 2.0}, {"a": 5.0, "b": 1.0}) == {"a": 3.0, "b": 1.0}


def test_when_counted_waits_for_the_last_request(monkeypatch):
    answers = iter([1, 1, 2])
    name = "vllm:request_prompt_tokens_count"
    monkeypatch.setattr(prometheus, "fetch", lambda root: f"{name} {next(answers)}")
    assert when_counted("http://server", {name: 0.0}, 2)[name] == 2


def test_requests_of_others_are_noticed(monkeypatch):
    monkeypatch.setattr(prometheus, "fetch", lambda root: "vllm:request_prompt_tokens_count 3")
    with pytest.raises(RuntimeError, match="counted 3 requests for 2"):
        when_counted("http://server", {}, 2)
