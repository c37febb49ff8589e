"""Results without servers."""

from pathlib import Path

import pytest

from vllm_script import benchmarks
from vllm_script.benchmarks.serving.cells import SCRIPT, STOCK, Arm, Cell
from vllm_script.benchmarks.serving.expected import Expected
from vllm_script.benchmarks.serving.results import summary

ABOUT = {
    "model": "tiny",
    "text_tokens": 8,
    "output_tokens": 3,
    "seed": 0,
    "machine": "one core",
    "command": "python benchmarks/serve_bench.py",
}


@pytest.fixture(scope="session")
def committed():
    """committed("serve") -> the newest DATE-serve.md of benchmarks/results/, beside its .jsonl."""
    results = Path(benchmarks.__file__).parent / "results"
    dated = "20[0-9][0-9]-[0-9][0-9]-[0-9][0-9]"

    def newest(name: str) -> Path:
        return max(results.glob(f"{dated}-{name}.md"))

    return newest


@pytest.fixture(scope="session")
def expected(checkpoint):
    """What the prompts of a small LLaVA-NeXT must count."""
    return Expected(str(checkpoint("llava-next")))


@pytest.fixture
def block():
    """block(seconds to first token, ...) -> a block of two requests, of 110 prompt tokens each."""

    def make(ttft=0.2, prompt_tokens=110, **changes):
        grown = {
            "vllm:request_prompt_tokens_sum": 2 * prompt_tokens,
            "vllm:request_queue_time_seconds_sum": 0.02,
            "vllm:request_prefill_time_seconds_sum": 2 * (ttft - 0.05),
        }
        values = dict(
            ttfts=[ttft, ttft * 1.1],
            itls=[[0.005, 0.015]] * 2,
            latencies=[ttft + 0.02, ttft * 1.1 + 0.02],
            input_lens=[prompt_tokens] * 2,
            output_lens=[3, 3],
            errors=["", ""],
            request_throughput=1 / ttft,
            grown=grown | changes.pop("grown", {}),
            peak_running=2,
            peak_kv_usage=0.1,
        )
        return values | changes

    return make


@pytest.fixture
def cell():
    """cell(concurrency, ratio, picture) -> Cell of stock and a keep ratio."""

    def make(concurrency=1, ratio=0.11, picture="84x84"):
        return Cell(picture, (Arm(STOCK), Arm(SCRIPT, ratio)), 2, 3, concurrency)

    return make


@pytest.fixture
def lines(block):
    """lines(cell, times shorter) -> its results: stock takes 0.2 s, the other that much less.

    counted: whether the other counts encoder and selection.
    """

    def make(cell, times=4.0, counted=True):
        common = dict(
            rate=None, text_tokens=10.0, kv_cache_tokens=4096, idle_cores=0.01, about=ABOUT
        )
        seconds = {"script_encoder_seconds_sum": 0.02, "script_selection_seconds_sum": 0.002}
        stock = [block(0.2 * drift) for drift in (1.0, 1.02, 0.98)]
        other = [
            block(0.2 / times * d, 21, grown=seconds if counted else {}) for d in (1.01, 1.0, 0.99)
        ]
        return [
            summary(cell, arm, blocks, **common)
            for arm, blocks in zip(cell.arms, (stock, other), strict=True)
        ]

    return make
