"""The bet is as seldom won wrongly as it says, and is won where it can be."""

import itertools
import math

import numpy as np
import pytest

from vllm_script.benchmarks.tuning.evidence import Bet, fewest_questions

ERROR = 0.05
RUNS = 4000

LOSING_THE_LIMIT = {
    "0.02, nothing gained": (0.02, {1: 0.02}),
    "0.05, nothing gained": (0.05, {1: 0.05}),
    "0.05, much gained": (0.05, {1: 0.25, -1: 0.20}),
    "0.05, halves": (0.05, {0.5: 0.12, 1: 0.03, -0.5: 0.08}),
    "0.2, little gained": (0.2, {1: 0.22, -1: 0.02}),
}
"""Limits, and distributions of losses whose mean is just the limit; the rest loses nothing."""


def drawn(chances, shape, seed=0):
    losses, shares = zip(*chances.items(), strict=True)
    rng = np.random.default_rng(seed)
    return rng.choice([*losses, 0], shape, p=[*shares, 1 - sum(shares)])


@pytest.mark.parametrize(("limit", "chances"), LOSING_THE_LIMIT.values(), ids=LOSING_THE_LIMIT)
def test_it_is_seldom_won_wrongly_whenever_one_looks(limit, chances):
    bet = Bet(limit, ERROR, 240)
    won = [bet.won_at(losses) is not None for losses in drawn(chances, (RUNS, 240))]
    assert 0.002 < np.mean(won) <= ERROR


@pytest.mark.parametrize(("limit", "chances"), LOSING_THE_LIMIT.values(), ids=LOSING_THE_LIMIT)
def test_bounds_hold_at_once_over_all_numbers_of_questions(limit, chances):
    bet = Bet(0.05, ERROR, 120)
    for sign in (1, -1):
        mean = sign * limit
        missed = 0
        for losses in sign * drawn(chances, (400, 120), seed=1):
            missed += bet.at_most(losses) < mean
        assert missed / 400 <= ERROR, sign


@pytest.mark.parametrize("limit", [0.01, 0.02, 0.05, 0.1])
def test_the_fewest_questions_are_enough_if_nothing_is_lost(limit):
    fewest = fewest_questions(limit, ERROR)
    bet = Bet(limit, ERROR, fewest)
    assert bet.fraction > 0.9
    assert bet.won_at(np.zeros(fewest)) == fewest
    assert bet.won_at(np.zeros(fewest - 1)) is None
    assert 1 - (1 - limit) ** fewest >= 1 - ERROR > 1 - (1 - limit) ** (fewest - 1)


def test_more_questions_forgive_more():
    lost = [Bet(0.02, ERROR, number).fraction for number in (150, 300, 1000, 10_000)]
    assert lost == sorted(lost, reverse=True) and lost[-1] < 0.4
    bet = Bet(0.02, ERROR, 1000)
    assert bet.won_at(np.array([0.0] * 990 + [1.0] * 10)) is not None
    rare = drawn({1: 0.005}, (200, 1000))
    assert np.mean([bet.won_at(losses) is not None for losses in rare]) > 0.95


def test_the_upper_bound_is_below_the_limit_once_the_bet_is_won():
    bet = Bet(0.05, ERROR, 240)
    for losses in drawn({1: 0.02, -1: 0.01}, (20, 240)):
        if (won := bet.won_at(losses)) is None:
            assert bet.at_most(losses) > 0.05
        else:
            assert bet.at_most(losses[:won]) <= 0.05 < bet.at_most(losses[: won - 1])
            assert bet.at_least(losses) <= losses.mean() <= bet.at_most(losses)


@pytest.mark.parametrize("before", [[0, 0, 1], [0, 1, 1], [-1, 0, 1], [0, 0, 0]])
def test_hopeless_is_what_no_rest_can_win(before):
    bet = Bet(0.3, 0.2, 8)
    best = np.array([0, -1, 0, 0, -1])  # only two were wrong unpruned
    rests = itertools.product(*([1, 0, -1][: 2 - int(one)] for one in best))
    can_win = any(bet.won_at(np.array([*before, *rest])) is not None for rest in rests)
    assert bet.is_hopeless(np.array(before), best) == (not can_win)


def test_questions_that_it_would_need():
    bet = Bet(0.02, ERROR, 100)
    assert bet.would_need(np.zeros(100)) == fewest_questions(0.02, ERROR)
    assert bet.would_need(np.array([1.0, 1.0] + [0.0] * 98)) is None
    like_these = np.array([0.0] * 99 + [1.0])
    needed = bet.would_need(like_these)
    for more, won in ((1.1, True), (0.7, False)):
        losses = np.tile(like_these, 100)[: math.ceil(more * needed / 100) * 100]
        assert (Bet(0.02, ERROR, len(losses)).won_at(losses) is not None) == won
