import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from vllm_script.kernels import Pool, inverse_norms, query_relevance, unit_rows
from vllm_script.kernels.greedy_map import num_programs, token_class
from vllm_script.kernels.testing import assert_picks, num_differing

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


@pytest.mark.parametrize(
    "relevance, expected", [(None, [0, 3, 1, 2]), ([0.9, 1.0, 0.75, 0.25], [1, 2, 0, 3])]
)
@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30])
def test_greedy_map_kernel_by_hand(relevance, expected, scale):
    """The cases of `test_greedy_map_by_hand`."""
    if relevance is not None:
        relevance = scale * torch.tensor(relevance)
    rows = torch.tensor([A, B, C, D])
    for budget in (1, 2, 4):
        picks = greedy_map(rows, relevance, budget, backend="triton")
        assert picks.tolist() == expected[:budget]


def _check_picks(rows, relevance, budget, count_ties, pool=None):
    candidates = torch.arange(len(rows)) if pool is None else pool.rows[: pool.counts[0]]
    picks, reference = (
        greedy_map(rows, relevance, budget, pool=pool, backend=backend)
        for backend in ("triton", "torch")
    )
    assert picks.dtype == torch.int64 and len(picks) == budget
    assert assert_picks(rows, relevance, candidates, picks) == 0
    assert assert_picks(rows, relevance, candidates, reference) == 0
    count_ties(budget, num_differing(picks, reference))


@pytest.mark.parametrize(
    "num_tokens, dim, budget", [(1, 1, 1), (63, 100, 63), (100, 128, 20), (200, 64, 12)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_greedy_map_kernel(num_tokens, dim, budget, dtype, weighted, count_ties):
    generator = torch.Generator().manual_seed(0)
    rows = (torch.randn(2 * num_tokens, dim, generator=generator) + 0.5).to(dtype)[::2]
    relevance = torch.rand(num_tokens, generator=generator) if weighted else None
    _check_picks(rows, relevance, budget, count_ties)


@pytest.mark.parametrize("num_tokens, dim, budget", [(576, 1024, 64), (2928, 256, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_greedy_map_kernel_large(num_tokens, dim, budget, dtype, large_tiles, count_ties):
    """Half of the rows are the pool."""
    generator = torch.Generator().manual_seed(0)
    rows = (torch.randn(2 * num_tokens, dim, generator=generator) + 0.5).to(dtype)[::2]
    relevance = torch.rand(num_tokens, generator=generator)
    pool_rows = torch.randperm(num_tokens, generator=generator)
    pool_rows[: num_tokens // 2] = pool_rows[: num_tokens // 2].sort().values
    pool_rows[num_tokens // 2 :] = 2**62  # undefined, and not to be looked at
    pool = Pool(pool_rows, torch.tensor([num_tokens // 2]))
    _check_picks(rows, relevance, budget, count_ties, pool)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_greedy_map_kernel_integers_are_identical(dtype, weighted):
    """Rows of +-1 that repeat, oppose, or are orthogonal; weights are powers of 2: all exact.

    Half of the places are beyond the rank, ties are everywhere, zero rows too.
    """
    generator = torch.Generator().manual_seed(0)
    basis = torch.tensor([[1.0]])
    for _ in range(4):
        basis = torch.cat([torch.cat([basis, basis], 1), torch.cat([basis, -basis], 1)])
    which, sign = torch.randint(16, (100,), generator=generator), torch.randn(100)
    rows = (basis[which] * sign.sign()[:, None]).to(dtype)
    rows[::9] = 0.0
    relevance = 2.0 ** -torch.randint(4, (100,), generator=generator) if weighted else None
    picks = [greedy_map(rows, relevance, 30, backend=b) for b in ("triton", "torch")]
    assert torch.equal(*picks)


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


def test_greedy_map_sums_do_not_depend_on_the_longest_image(monkeypatch):
    """A small image is summed up in blocks of its own class, beside a large one as alone."""
    module = sys.modules["vllm_script.kernels.greedy_map"]
    monkeypatch.setattr(module, "TOKENS_PER_PROGRAM", 32)
    monkeypatch.setattr(module, "num_waiting_programs", lambda device: 4)
    launch, launched = module.launch_phases, []

    def noting(*args, plan_ptr, BLOCK_N, BLOCK_K, **kwargs):
        launched.append((plan_ptr[2].tolist(), BLOCK_N, BLOCK_K))
        launch(*args, plan_ptr=plan_ptr, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, **kwargs)

    monkeypatch.setattr(module, "launch_phases", noting)
    lengths, budgets = [90, 200, 70], [4, 1, 9]
    rows = torch.randn(360, 64, generator=torch.Generator().manual_seed(0))
    pool = Pool(torch.arange(360), torch.tensor(lengths))
    picks = greedy_map(rows, None, budgets, lengths=lengths, pool=pool, backend="triton")
    assert launched == [([90, 70], 32, 1024), ([200], 64, 512)]
    alone = [
        first + greedy_map(own, None, budget, backend="triton")
        for first, own, budget in zip([0, 90, 290], rows.split(lengths), budgets, strict=True)
    ]
    assert torch.equal(picks, torch.cat(alone))
    assert launched[2:] == [([90], 32, 1024), ([200], 64, 512), ([70], 32, 1024)]


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
def test_greedy_map_with_inverse_norms_given(backend):
    rows = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    picks = [
        greedy_map(rows, None, 9, inverse_norm=inverse_norm, backend=backend)
        for inverse_norm in (None, inverse_norms(rows, backend))
    ]
    assert torch.equal(*picks)


def test_greedy_map_kernel_reads_the_factor_beyond_its_registers(monkeypatch, count_ties):
    """Four values of a token's factor are in registers, the rest is read in parts of two."""
    for name, value in {
        **{"TOKENS_PER_PROGRAM": 8, "num_waiting_programs": lambda device: 4},
        **{"RESIDENT_VALUES": 32, "CHUNK_VALUES": 16, "BLOCK_RELEVANCE": 8},
    }.items():
        # Not by its dotted name: the package's greedy_map is the function.
        monkeypatch.setattr(sys.modules["vllm_script.kernels.greedy_map"], name, value)
    generator = torch.Generator().manual_seed(3)
    rows, relevance = torch.randn(30, 50, generator=generator), torch.rand(30, generator=generator)
    _check_picks(rows, relevance, 15, count_ties)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_greedy_map_equal_rows_tie_whatever_was_picked_between_them(backend):
    """Rows 0 and 2 are equal; 1 is picked first, and what it leaves of the two is equal too."""
    for seed in range(60):
        rows = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))
        rows[2] = rows[0]
        relevance = torch.tensor([0.5, 1.0, 0.5])
        assert greedy_map(rows, relevance, 2, backend=backend).tolist() == [1, 0], seed


@pytest.mark.parametrize(
    "lengths, num_waiting, expected",
    [
        ([1], 124, (128, 1)),
        ([2880], 124, (128, 23)),
        ([2880] * 8, 124, (128, 124)),  # all at once where pools are half of that
        ([8192], 124, (128, 64)),
        ([8192], 54, (256, 32)),
        ([2880], 14, (256, 12)),
        ([16384], 124, (256, 64)),
    ],
)
def test_greedy_map_programs(lengths, num_waiting, expected):
    """Tokens that a program owns follow from the longest image, and programs from both."""
    block_tokens = token_class(max(lengths), num_waiting)
    assert (block_tokens, num_programs(lengths, block_tokens, num_waiting)) == expected
    assert -(-max(lengths) // block_tokens) <= min(num_waiting, 64)


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
