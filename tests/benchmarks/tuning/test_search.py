"""Which setting is found, after how many requests, and how seldom a wrong one."""

import asyncio

import numpy as np
import pytest

from vllm_script.benchmarks.accuracy.settings import WHOLE, Setting, grid
from vllm_script.benchmarks.common import read_lines
from vllm_script.benchmarks.tuning.search import Search, is_clearly_worse

RATIOS = (0.5, 0.22, 0.11, 0.056)
SETTINGS = grid(RATIOS, ("script", "gsp", "uniform"), ("clip",))[1:]


def chance(setting):
    """Nothing is lost down to 0.11 by script, to 0.22 by gsp, and much by uniform."""
    if setting.mode == "uniform":
        return 0.3
    least = 0.11 if setting.mode == "script" else 0.22
    return 0.002 if setting.keep_ratio >= least else 0.3


def test_the_smallest_keep_ratio_of_the_best_method(searched, answering, lossy):
    right = lossy(SETTINGS, chance, 400)
    endpoint = answering(right)
    search = searched(endpoint, 0.05)
    assert search.chosen.setting == Setting(0.11, "script", "clip")
    assert [tried.shown for tried in search.tested] == [True, True, True, False]
    assert len(endpoint.asked) == len(set(endpoint.asked)) < 400 * len(right) / 4
    asked = [setting for _, setting in endpoint.asked]
    assert asked.count("uniform @ 0.056") <= 32 and "uniform @ 0.5" not in asked


def test_questions_that_choose_the_method_do_not_test_it(searched, answering, lossy):
    search = searched(answering(lossy(SETTINGS, chance, 400)), 0.05)
    choosing, testing = ({q.id for q in part} for part in (search.comparing, search.testing))
    assert len(choosing) == 80 and len(testing) == 320 and not choosing & testing
    assert [q.id for q in search.testing] != sorted((q.id for q in search.testing), key=int)


def test_one_method_is_tested_with_all_questions(searched, answering, lossy):
    right = lossy(SETTINGS[:4], chance, 100)
    search = searched(answering(right), 0.05)
    assert len(search.testing) == 100 and not search.compared
    few = lossy(SETTINGS, lambda setting: 0, 62)
    search = searched(answering(few), 0.05)
    assert len(search.testing) == 62 and search.chosen.setting == Setting(0.056, "script", "clip")


def test_nothing_is_shown(searched, answering, lossy):
    search = searched(answering(lossy(SETTINGS, lambda setting: 0.3, 400)), 0.05)
    assert search.chosen is None
    assert len(search.tested) == 1 and len(search.tested[0].losses) < 150


@pytest.mark.parametrize("stop", [1, 7, 100, 391])
def test_a_run_that_was_stopped_goes_on(stop, searched, answering, lossy, tmp_path):
    right = lossy(SETTINGS, chance, 400)
    whole = answering(right)
    expected = searched(whole, 0.05, path=tmp_path / "whole.jsonl")
    endpoint = answering(right, stop_after=stop)
    with pytest.raises(ConnectionError):
        searched(endpoint, 0.05)
    with (tmp_path / "answers.jsonl").open("a") as out:
        out.write('{"item": "3", "set')  # killed while it wrote
    endpoint.stop_after = None
    kept = len(read_lines(tmp_path / "answers.jsonl"))
    assert kept > stop - 8
    search = searched(endpoint, 0.05)
    assert search.chosen.setting == expected.chosen.setting
    for tried, other in zip(search.tested, expected.tested, strict=True):
        assert np.array_equal(tried.losses, other.losses)
    assert len(endpoint.asked) <= len(whole.asked) + 8
    again = len(endpoint.asked)
    searched(endpoint, 0.05)
    assert len(endpoint.asked) == again, "asked again"


class Known:
    """Losses that are known beforehand; setting -> loss of each question."""

    def __init__(self, losses):
        self.losses = losses

    async def ask(self, questions, settings, answered):
        pass

    def of(self, questions, setting):
        return self.losses[setting][list(questions)]

    def smallest(self, questions):
        return np.full(len(questions), -1.0)


@pytest.mark.parametrize("gained", [0, 0.05], ids=["losses", "losses and gains"])
def test_a_setting_that_loses_too_much_is_seldom_shown(gained):
    """Every method loses the limit at 0.11 and more below, and methods share half their losses."""
    limit, number, runs, wrong, right = 0.05, 100, 200, 0, 0
    rng = np.random.default_rng(0)
    for _ in range(runs):
        shared, losses = rng.random(number), {}
        for setting in SETTINGS:
            lost = {0.5: 0, 0.22: 0.01, 0.11: limit, 0.056: 0.06}[setting.keep_ratio] + gained
            own = np.where(rng.random(number) < 0.5, shared, rng.random(number))
            losses[setting] = 1.0 * (own < lost) - (own > 1 - gained)
        search = Search(Known(losses), range(number), SETTINGS, limit, 0.05)
        asyncio.run(search.run())
        found = search.chosen and search.chosen.setting.keep_ratio
        wrong += found is not None and found <= 0.11
        right += found is not None and found > 0.11
    assert wrong / runs <= 0.05
    assert right / runs > (0.2 if gained else 0.9)


@pytest.mark.parametrize(
    ("number", "limit", "words"),
    [
        (1, 0.01, ["1 question cannot show", "that takes 299", "--loss 95"]),
        (100, 0.01, ["100 questions cannot show with 95 % confidence", "299", "--loss 3"]),
        (0, 0.01, ["0 questions cannot", "299"]),
    ],
)
def test_too_few_questions(number, limit, words):
    with pytest.raises(ValueError) as error:
        Search(Known({}), range(number), SETTINGS, limit, 0.05)
    for word in words:
        assert word in str(error.value)


def test_so_much_loss_can_be_shown_with_the_questions_there_are():
    Search(Known({}), range(100), SETTINGS, 0.03, 0.05)
    with pytest.raises(ValueError, match="--loss 3"):
        Search(Known({}), range(100), SETTINGS, 0.029, 0.05)


def test_clearly_worse_is_more_than_luck():
    best = np.zeros(20)
    for lost, clearly in ((0, False), (4, False), (5, True), (20, True)):
        assert is_clearly_worse((np.arange(20) < lost).astype(float), best) == clearly
    even = np.array([1.0, -1.0] * 10)
    assert not is_clearly_worse(even, best) and not is_clearly_worse(best, even)
    assert WHOLE not in SETTINGS
