"""script-demo and 300 of its questions: what `tune` finds is what asking everything would find."""

import json
import sys

import pytest

from vllm_script.benchmarks.accuracy.scores import Scores
from vllm_script.benchmarks.accuracy.settings import WHOLE
from vllm_script.benchmarks.tuning.evidence import Bet
from vllm_script.server import command as shell
from vllm_script.server.tune_command import DEMO_QUESTIONS, RATIOS

ERROR = 0.05


@pytest.fixture
def grid(committed):
    """Right or wrong of every question in every setting that `tune` tries, as vLLM answered."""
    report = committed("tune")
    scores = Scores.load(report.with_name(f"{report.stem}-grid.jsonl"))
    assert len(scores.whole) == DEMO_QUESTIONS
    assert scores.ratios == list(RATIOS) and len(scores.methods) == 10
    return scores


def smallest(grid, limit):
    """The smallest keep ratio at which any method wins the bet with all questions."""
    bet = Bet(limit, ERROR, DEMO_QUESTIONS)
    whole = grid.whole.astype(float)
    return min(
        setting.keep_ratio
        for setting, right in grid.right.items()
        if setting != WHOLE and bet.won_at(whole - right) is not None
    )


@pytest.mark.parametrize("limit", [0.05, 0.1])
def test_it_finds_what_the_full_grid_finds_with_a_quarter_of_the_requests(
    grid, limit, searched, answering
):
    endpoint = answering(grid.right)
    search = searched(endpoint, limit, ERROR)
    assert search.chosen.setting.keep_ratio == smallest(grid, limit)
    assert len(endpoint.asked) < DEMO_QUESTIONS * len(grid.right) / 4


@pytest.mark.parametrize("limit", [0.01, 0.02, 0.03, 0.04, 0.06])
def test_with_too_few_questions_it_prunes_less_and_never_more(grid, limit, searched, answering):
    search = searched(answering(grid.right), limit, ERROR)
    assert search.chosen is None or search.chosen.setting.keep_ratio >= smallest(grid, limit)
    assert not search.tested[-1].shown


@pytest.mark.slow
@pytest.mark.real
def test_of_a_server(grid, monkeypatch, tmp_path, capsys):
    words = ["vllm-script", "tune", "--loss", "5", "--out", str(tmp_path), "--", "--dtype"]
    monkeypatch.setattr(sys, "argv", [*words, "float32"])
    shell.main()
    assert "vllm serve script-demo --plugin script --keep-ratio" in capsys.readouterr().out
    chosen = json.loads((tmp_path / "settings.jsonl").read_text().splitlines()[0])["chosen"]
    assert chosen["keep_ratio"] == smallest(grid, 0.05)
    answers = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert len(set(answers)) == len(answers) < DEMO_QUESTIONS * len(grid.right) / 4
