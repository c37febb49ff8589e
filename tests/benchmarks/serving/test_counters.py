"""What a server counts, and what it says of itself."""

import pytest

from vllm_script.benchmarks import scrape
from vllm_script.benchmarks.scrape import Scrape
from vllm_script.benchmarks.serving.counters import kv_cache_tokens, when_counted

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
