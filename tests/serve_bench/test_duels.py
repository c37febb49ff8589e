"""Families against stock and vLLM's own pruning: which comparisons, and what they must count."""

import json

import family_bench
import pytest
import torch
from serve.duels import Duel, duels_of, report
from serve.own_pruning import own_flags, own_num_kept
from serve.requests import Size

from vllm_script.layout import Layout

PICTURE, VIDEO = Size(672, 672), Size(336, 336, 16)


def test_order_changes_servers_least():
    duels = duels_of("a", [PICTURE, VIDEO], ("image", "video"), ("evs", "vidcom2"), 0.25, 3, 2)
    assert [(duel.size, duel.rival) for duel in duels] == [
        (PICTURE, "script"), (VIDEO, "script"), (VIDEO, "evs"), (VIDEO, "vidcom2"),
    ]  # fmt: skip
    assert [str(arm) for arm in duels[0].arms] == ["stock", "keep 0.25"]
    assert [str(arm) for arm in duels[2].arms] == ["stock", "evs"]


def test_family_without_videos_is_sent_pictures():
    (duel,) = duels_of("a", [PICTURE, VIDEO], ("image",), ("evs",), 0.25, 3, 2)
    assert duel == Duel("a", PICTURE, "script", 0.25, 3, 2)


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


def test_report():
    line = {
        "family": "qwen3-vl",
        "size": "16x336x336",
        "rival": "evs",
        "visual_tokens": [800, 200],
        "ttft_ms": [{"p50": 1000.4}, {"p50": 500.0}],
        "ttft_s": [[1.0, 1.02, 0.98], [0.5, 0.51, 0.49]],
        "split_ms": [{}, {"encoder": None, "selection": None}],
    }
    ours = line | {"rival": "script", "split_ms": [{}, {"encoder": 90.4, "selection": 9.6}]}
    text = report([line, ours], {"machine": "one core"})
    assert "- machine: one core" in text
    row = "| qwen3-vl | video 16x336x336 | {} | 800, 200 | 1000, 500 | 0.50 (0.50 to 0.50) | {} |"
    assert row.format("evs", "") in text and row.format("script", "90, 10") in text


@pytest.mark.slow  # starts four servers of its own
def test_command(family_checkpoint, tmp_path, monkeypatch):
    """Stock, the plugin and vLLM's own pruning have the token counts that are expected."""
    monkeypatch.setenv("PYTHONPATH", "")  # the command changes it; afterwards it is as it was
    monkeypatch.setattr(family_bench, "accelerator", lambda: None)
    monkeypatch.setattr(family_bench, "written", lambda model: family_checkpoint("qwen3-vl"))
    sizes = ("--sizes", "192x128", "4x192x128", "--requests", "2", "--repetitions", "1")
    own = ("family_bench.py", "--families", "qwen3-vl", "--out", str(tmp_path))
    monkeypatch.setattr("sys.argv", [*own, *sizes])
    family_bench.main()
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").open()]
    assert [(line["size"], line["rival"], line["visual_tokens"]) for line in lines] == [
        ("192x128", "script", [24, 6]),
        ("4x192x128", "script", [48, 12]),
        ("4x192x128", "evs", [48, 24]),
        ("4x192x128", "vidcom2", [48, 12]),
    ]
    assert all(len(times) == 2 and min(times) > 0 for line in lines for times in line["ttft_s"])
    assert (
        "| qwen3-vl | video 4x192x128 | script | 48, 12 |" in (tmp_path / "report.md").read_text()
    )
