"""The rule itself: it must let ties pass and nothing else."""

import pytest
import torch

from vllm_script.kernels.testing import assert_picks, assert_rounds, rows_of

from .ops import greedy_map, reduce_graph

GENERATOR = torch.Generator().manual_seed(0)
ROWS = torch.randn(60, 30, generator=GENERATOR) + 0.5
RELEVANCE = torch.rand(60, generator=GENERATOR)
SETTINGS = {"tau": 0.1, "tau_relative": True, "gamma": 1.0}


def after(num_rounds: int) -> torch.Tensor:
    return rows_of(*reduce_graph(ROWS, 20, **SETTINGS, num_rounds=num_rounds), [60])[0]


def test_assert_picks():
    picks, everything = greedy_map(ROWS, RELEVANCE, 12), torch.arange(60)
    assert assert_picks(ROWS, RELEVANCE, everything, picks) == 0
    with pytest.raises(AssertionError, match="step 3: picked"):
        assert_picks(ROWS, RELEVANCE, everything, picks[[0, 1, 2, 4, 3]])
    with pytest.raises(AssertionError, match="picked twice"):
        assert_picks(ROWS, RELEVANCE, everything, picks[[0, 1, 0]])
    with pytest.raises(AssertionError, match="no candidate"):
        assert_picks(ROWS, RELEVANCE, picks[1:].sort().values, picks)


def test_assert_picks_lets_ties_pass():
    rows = ROWS.repeat(2, 1)
    picks = greedy_map(rows, None, 12)
    picks[::3] += 60 * (picks[::3] < 60)  # the copy of what was picked
    assert assert_picks(rows, None, torch.arange(120), picks) == 0


def test_assert_picks_counts_what_only_float32_excuses():
    """After the first pick the others have 1e-4 left, and differ by a hundredth of that at most."""
    rows = torch.zeros(4, 4)
    rows[:, 0] = 1.0
    for index, left in ((1, 1e-4), (2, 0.993e-4), (3, 0.9e-4)):
        rows[index, 0], rows[index, index] = (1 - left) ** 0.5, left**0.5
    everything = torch.arange(4)
    assert assert_picks(rows, None, everything, torch.tensor([0, 1])) == 0
    assert assert_picks(rows, None, everything, torch.tensor([0, 2])) == 1
    with pytest.raises(AssertionError, match="step 1: picked"):
        assert_picks(rows, None, everything, torch.tensor([0, 3]))


def test_assert_rounds():
    assert torch.equal(assert_rounds(ROWS, 20, after, **SETTINGS), after(16))
    last = len(after(1))

    def less(num_rounds):
        return after(num_rounds)[: last - 1]

    def others(num_rounds):
        """The src tokens that stayed leave instead of those that left."""
        gone = torch.tensor([row for row in range(0, 60, 2) if row not in after(1)])
        return torch.cat([torch.arange(1, 60, 2), gone]).sort().values

    def nothing(num_rounds):
        return torch.arange(60)

    for wrong, message in ((less, "dropped"), (others, "but left"), (nothing, "dropped 0, not")):
        with pytest.raises(AssertionError, match=message):
            assert_rounds(ROWS, 20, wrong, **SETTINGS)
