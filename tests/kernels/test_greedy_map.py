"""Which tokens greedy MAP picks: by hand, by published code, and what both backends hold to."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from vllm_script.kernels import Pool, query_relevance, unit_rows

from .ops import greedy_map

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("case*.npz"))

# a and b are the same; d is orthogonal to them; c lies between: cos(a, c) = 0.6, cos(c, d) = 0.8.
A, B, C, D = [1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]


@pytest.mark.parametrize(
    "relevance, expected",
    [
        # Residuals 1 1 1 1: a. Then b 0, c 1 - 0.36 = 0.64, d 1: d. Then c 0.64 - 0.64 = 0:
        # a and d span the plane, and equal relevance leaves b, c.
        (None, [0, 3, 1, 2]),
        # Diagonal 0.81 1 0.5625 0.0625: b. Then a 0, c 0.5625 * 0.64 = 0.36, d 0.0625: c.
        # Then d 0: the plane is spanned, and relevance fills with a (0.9), d (0.25).
        ([0.9, 1.0, 0.75, 0.25], [1, 2, 0, 3]),
    ],
    ids=["diversity", "relevance"],
)
@pytest.mark.parametrize("budget", [1, 2, 3, 4])
@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30])
def test_greedy_map_by_hand(relevance, expected, budget, scale):
    if relevance is not None:
        relevance = scale * torch.tensor(relevance)
    picks = greedy_map(torch.tensor([A, B, C, D]), relevance, budget)
    assert picks.tolist() == expected[:budget]


def test_greedy_map_first_of_equals_is_the_lowest_index():
    """Every row is as similar to itself as any other, whatever float32 makes of the product."""
    for seed in range(20):
        rows = torch.randn(50, 63, generator=torch.Generator().manual_seed(seed))
        rows[0] = 0.0  # a zero row is similar to nothing, itself included
        assert greedy_map(unit_rows(rows), None, 1).tolist() == [1]


@pytest.mark.parametrize("value", [0.0, 0.3, 1e30])
def test_greedy_map_constant_relevance_is_none(value):
    unit = unit_rows(torch.randn(20, 8, generator=torch.Generator().manual_seed(0)))
    constant = greedy_map(unit, torch.full((20,), value), 12)
    assert torch.equal(constant, greedy_map(unit, None, 12))


def test_greedy_map_maximises_determinant():
    generator = torch.Generator().manual_seed(1)
    unit = unit_rows(torch.randn(15, 24, generator=generator))
    relevance = torch.rand(15, generator=generator)
    kernel = (relevance[:, None] * (unit @ unit.T) * relevance).double()
    picks = greedy_map(unit, relevance, 8).tolist()
    for size in range(8):
        rest = [i for i in range(15) if i not in picks[:size]]
        sets = [picks[:size] + [i] for i in rest]
        determinants = [torch.linalg.det(kernel[s][:, s]).item() for s in sets]
        assert rest[int(np.argmax(determinants))] == picks[size]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_greedy_map_matches_published_cdpruner(path):
    with np.load(path) as case:
        tokens, patches, text = (
            torch.from_numpy(case[key]).float() for key in ("visual", "image_embeds", "text_embeds")
        )
        kept = torch.from_numpy(case["kept"]).long()
    relevance = query_relevance(patches.flatten(0, 1), text, polarity=-1).view(tokens.shape[:2])
    for tile in range(len(tokens)):
        picks = greedy_map(unit_rows(tokens[tile]), relevance[tile], kept.shape[1])
        assert torch.equal(picks.sort().values, kept[tile]), f"tile {tile}"


def test_golden_cases_are_there():
    assert len(GOLDEN) == 6


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_greedy_map_fills_by_relevance_beyond_rank(rank):
    generator = torch.Generator().manual_seed(rank)
    basis = torch.randn(rank, 32, generator=generator)
    unit = unit_rows(torch.randn(50, rank, generator=generator) @ basis)
    relevance = 0.2 + torch.rand(50, generator=generator).round(decimals=1)  # with ties
    picks = greedy_map(unit, relevance, 40).tolist()
    assert len(set(picks)) == 40
    order = [(-relevance[i].item(), i) for i in picks[rank:]]
    assert all(before < after for before, after in pairwise(order))
    worst_filled = order[-1]
    assert all(worst_filled < (-relevance[i].item(), i) for i in set(range(50)) - set(picks))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_greedy_map_token_of_small_relevance_is_not_spanned(backend):
    """It is unlike all others, so it comes before the copy of one that is more relevant."""
    rows = torch.eye(3)[[0, 1, 1, 2]]
    relevance = torch.tensor([1.0, 0.003, 0.0029, 0.002])
    assert greedy_map(rows, relevance, 4, backend=backend).tolist() == [0, 1, 3, 2]


@pytest.mark.parametrize("budget", [0, 5])
def test_greedy_map_budget_error(budget):
    with pytest.raises(ValueError, match=rf"budget must be in \[1, 4\], got {budget}"):
        greedy_map(torch.eye(4), None, budget)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_greedy_map_many_images(backend):
    """An image gets the picks it gets alone, whatever lies beside it."""
    generator = torch.Generator().manual_seed(0)
    lengths, budgets = [1, 150, 39, 5], [1, 12, 7, 5]
    rows = torch.randn(195, 40, generator=generator)
    relevance = torch.rand(195, generator=generator)
    relevance[1:151] = 0.5
    batch = greedy_map(rows, relevance, budgets, lengths=lengths, backend=backend)
    alone, first = [], 0
    for image, own_relevance, budget in zip(
        rows.split(lengths), relevance.split(lengths), budgets, strict=True
    ):
        alone.append(first + greedy_map(image, own_relevance, budget, backend=backend))
        first += len(image)
    assert torch.equal(batch, torch.cat(alone))
    assert torch.equal(batch, greedy_map(rows, relevance, budgets, lengths=lengths))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_greedy_map_in_a_pool(backend):
    """As if the rows of the pool were all there is; a pool no larger than the budget is taken."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(100, 40, generator=generator)
    relevance = torch.rand(100, generator=generator)
    lengths, counts, budgets = [60, 30, 10], [25, 30, 4], [9, 7, 4]
    pool_rows, expected, first = torch.full((100,), 2**62), [], 0
    for length, count, budget in zip(lengths, counts, budgets, strict=True):
        kept = first + torch.randperm(length, generator=generator)[:count].sort().values
        pool_rows[first : first + count] = kept
        alone = kept[greedy_map(rows[kept], relevance[kept], budget, backend=backend)]
        expected.append(kept if count == budget else alone)
        first += length
    pool = Pool(pool_rows, torch.tensor(counts))
    picks = greedy_map(rows, relevance, budgets, lengths=lengths, pool=pool, backend=backend)
    assert torch.equal(picks, torch.cat(expected))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_greedy_map_equal_rows_tie_whatever_was_picked_between_them(backend):
    """Rows 0 and 2 are equal; 1 is picked first, and what it leaves of the two is equal too."""
    for seed in range(60):
        rows = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))
        rows[2] = rows[0]
        relevance = torch.tensor([0.5, 1.0, 0.5])
        assert greedy_map(rows, relevance, 2, backend=backend).tolist() == [1, 0], seed


@pytest.mark.parametrize(
    "budget, lengths, message",
    [
        ([2], [2, 2], r"a budget for each of 2 images, got \[2\]"),
        ([1, 3], [2, 2], r"budget must be in \[1, 2\], got 3"),
    ],
)
def test_greedy_map_lengths_error(budget, lengths, message):
    with pytest.raises(ValueError, match=message):
        greedy_map(torch.eye(4), None, budget, lengths=lengths)
