"""Budgets, and the names that papers have for them."""

import pytest

from vllm_script.benchmarks.lmms_eval.published import AVERAGES, SCORES
from vllm_script.benchmarks.lmms_eval.settings import (
    BUDGETS,
    UNPRUNED,
    Setting,
    published_name,
    settings_of,
)
from vllm_script.benchmarks.lmms_eval.tasks import TASKS
from vllm_script.server.aliases import ALIASES


@pytest.mark.parametrize(
    ("budget", "script", "per_crop", "published", "name"),
    [
        ("0.1", {"keep_ratio": 0.1}, None, "10 %", "keep ratio 0.1"),
        ("64", {"visual_token_budget": 64}, None, "64", "64 tokens"),
        ("64/crop", {}, 64, "320", "64 tokens a crop"),
    ],
)
def test_budgets(budget, script, per_crop, published, name):
    setting = Setting(budget)
    assert (setting.script, setting.tokens_per_crop) == (script, per_crop)
    assert (setting.published, str(setting)) == (published, name)
    other = Setting(budget, "divprune")
    assert other.script == {"mode": "divprune"} | script
    assert str(other) == f"divprune, {name}" and other.folder != setting.folder


def test_unpruned_keeps_everything():
    assert UNPRUNED.script == {"keep_ratio": 1.0} and UNPRUNED.published is None


def test_the_papers_budgets_are_the_default():
    names = [setting.published for setting in settings_of("llava-next", None, None)]
    assert names == [None, "640", "320", "160"]
    names = [setting.published for setting in settings_of("Qwen/Qwen2.5-VL-7B-Instruct", (), ())]
    assert names == [None, "20 %", "10 %", "5 %"]
    asked = settings_of("llava-1.5", ["64"], ["script", "divprune"])
    assert [str(s) for s in asked] == ["unpruned", "script, 64 tokens", "divprune, 64 tokens"]


@pytest.mark.parametrize("budget", ["0", "1", "1.5", "-3", "64/crops", "many", "0.0"])
def test_other_budgets_are_errors(budget):
    with pytest.raises(ValueError, match="a budget is"):
        settings_of("llava-next", [budget], None)


def test_short_names_and_repositories_are_the_same_model():
    for alias, paper in (("llava-1.5", "LLaVA-1.5-7B"), ("llava-next", "LLaVA-NeXT-7B")):
        assert published_name(alias) == published_name(ALIASES[alias]) == paper
    for other in ("llava-next-13b", ALIASES["llava-next-13b"], "script-demo"):
        assert published_name(other) is None


def test_published_figures_have_budgets_and_tasks_that_are_asked():
    for row in AVERAGES:
        budgets = {Setting(budget).published for budget in BUDGETS[row.model]}
        assert row.averages.keys() <= budgets and row.source
        assert all(60 < value < 100 for value in row.averages.values())
        values = [row.averages[budget] for budget in row.averages]
        assert values == sorted(values, reverse=True), row  # fewer tokens are never better there
    for (model, budget), methods in SCORES.items():
        assert budget in {Setting(name).published for name in BUDGETS[model]}
        assert all(scores.keys() <= TASKS.keys() for scores in methods.values())
