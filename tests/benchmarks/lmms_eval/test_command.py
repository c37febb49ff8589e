"""The command itself: lmms-eval on a task of ours, with stock vLLM and the plugin."""

import os
from pathlib import Path

import pytest

from vllm_script.benchmarks import lmms_bench
from vllm_script.benchmarks.lmms_eval.environment import is_set_up
from vllm_script.benchmarks.lmms_eval.running import load

ENVIRONMENT = Path(os.environ.get("LMMS_EVAL", lmms_bench.ENVIRONMENT))
"""Where lmms-eval is: in a checkout that the command was called in, or as the variable says."""

pytestmark = [
    pytest.mark.slow,  # starts two servers of its own, and lmms-eval twice
    pytest.mark.skipif(
        not is_set_up(ENVIRONMENT),
        reason=f"no lmms-eval in {ENVIRONMENT}: python benchmarks/lmms_bench.py --set-up",
    ),
]


def test_scenes(tmp_path, monkeypatch, capsys):
    own = ("--environment", str(ENVIRONMENT), "--out", str(tmp_path), "--model", "script-demo")
    own += ("--tasks", "scenes", "--budgets", "0.11", "--limit", "24", "--concurrency", "4")
    monkeypatch.setattr("sys.argv", ["lmms_bench.py", *own])
    lmms_bench.main()
    about, (whole, pruned) = load(tmp_path / "results.jsonl")
    assert about["unpruned"] == "stock vLLM"
    assert (whole.setting, pruned.setting) == ("unpruned", "keep ratio 0.11")
    for cell in (whole, pruned):
        assert (cell.questions, cell.refused) == (24, 0)
        assert cell.score > 90  # script-demo is right in 96 of 100
    # Scenes are of several sizes; 0.11 of each is rounded.
    assert pruned.visual_tokens / whole.visual_tokens == pytest.approx(0.11, abs=0.005)
    saved = whole.visual_tokens - pruned.visual_tokens
    assert whole.prompt_tokens - pruned.prompt_tokens == pytest.approx(saved, abs=0.2)
    assert "| keep ratio 0.11 |" in capsys.readouterr().out
    monkeypatch.setattr(lmms_bench, "VllmServer", None)  # a second call asks nothing
    lmms_bench.main()
    assert load(tmp_path / "results.jsonl")[1] == [whole, pruned]
