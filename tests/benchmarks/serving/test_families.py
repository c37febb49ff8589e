"""Families against stock and vLLM's own pruning: what they must count, and the report."""

import json

import pytest
import torch

from vllm_script.benchmarks import family_bench
from vllm_script.benchmarks.serving.cells import SCRIPT, STOCK, Arm, Cell
from vllm_script.benchmarks.serving.own_pruning import own_flags, own_num_kept
from vllm_script.benchmarks.serving.results import Results
from vllm_script.benchmarks.serving.tables import family_report
from vllm_script.layout import Layout


@pytest.mark.parametrize("keep_ratio", [0.01, 0.11, 0.25, 0.3, 0.9])
@pytest.mark.parametrize("frames", [1, 3, 8])
@pytest.mark.parametrize("size", [7, 100])
def test_own_counts_are_vllms(keep_ratio, frames, size):
    from vllm.multimodal.video_prune import evs, vidcom2

    layout = Layout(torch.arange(frames * size), frames)
    for method, module in (("evs", evs), ("vidcom2", vidcom2)):
        rate = float(own_flags(method, keep_ratio, on_cpu=True)[-1])
        theirs = module.compute_retained_tokens_count(size, frames, rate)
        assert own_num_kept(method, layout, keep_ratio) == theirs


def test_report(tmp_path, lines):
    results = Results(tmp_path / "results.jsonl")
    for arm, counted in ((Arm(SCRIPT, 0.11), True), (Arm("evs", 0.11), False)):
        arms = (Arm(STOCK), arm)
        cell = Cell("16x336x336", arms, 2, 3, family="qwen3-vl")
        results.add(cell, lines(cell, times=2.0, counted=counted))
    text = family_report(results)
    assert "- machine: one core" in text and "8 text tokens" in text
    row = "| qwen3-vl | video 16x336x336 | 1 at a time | {}, keep 0.11 | 100, 11 | 210, 105 "
    row += "| 0.50 ({} |"
    for server, times in (("script", "10, 1"), ("evs", "")):
        start, end = row.format(server, "...").split("...")
        (line,) = (line for line in text.splitlines() if line.startswith(start))
        assert line.endswith(f"| {times} |")


@pytest.mark.slow  # starts four servers of its own
def test_command(family_checkpoint, tmp_path, monkeypatch):
    """Stock, the plugin and vLLM's own pruning have the token counts that are expected."""
    monkeypatch.setattr(family_bench, "accelerator", lambda: None)
    monkeypatch.setattr(family_bench, "written", lambda model: str(family_checkpoint("qwen3-vl")))
    sizes = ("--sizes", "192x128", "4x192x128", "--requests", "2", "--repetitions", "1")
    own = (
        "family_bench.py",
        "--families",
        "qwen3-vl",
        "--out",
        str(tmp_path),
        "--tower-keep",
        "0.5",
    )
    monkeypatch.setattr("sys.argv", [*own, *sizes])
    family_bench.main()
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").open()]
    found = [(line["picture"], line["server"], line["visual_kv_tokens"]) for line in lines]
    assert found == [
        ("192x128", "stock", 24), ("192x128", "script", 6), ("192x128", "tower", 6),
        ("4x192x128", "stock", 48), ("4x192x128", "script", 12), ("4x192x128", "tower", 12),
        ("4x192x128", "stock", 48), ("4x192x128", "evs", 24),
        ("4x192x128", "stock", 48), ("4x192x128", "vidcom2", 12),
    ]  # fmt: skip
    for line in lines:
        (block,) = line["blocks"]
        assert len(block["ttft_s"]) == 2 and min(block["ttft_s"]) > 0
    row = "| qwen3-vl | video 4x192x128 | script, keep 0.25 | 48, 12 |"
    assert row in (tmp_path / "report.md").read_text()
