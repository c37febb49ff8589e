"""Thousands of small images in ragged batches: picks against the rule in float64.

The kernel takes milliseconds for a step in the interpreter, so its ten thousand are slow; of the
PyTorch path they are not.
"""

import sys

import pytest
import torch

from vllm_script.kernels import Pool
from vllm_script.kernels.testing import assert_picks

from .ops import greedy_map

GREEDY_MAP = sys.modules["vllm_script.kernels.greedy_map"]
MOST_TOKENS, DIM = 12, 16


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """The interpreter takes less time for them."""
    monkeypatch.setattr(GREEDY_MAP, "TOKENS_PER_PROGRAM", 16)
    monkeypatch.setattr(GREEDY_MAP, "RESIDENT_VALUES", 64)
    monkeypatch.setattr(GREEDY_MAP, "CHUNK_VALUES", 32)
    monkeypatch.setattr(GREEDY_MAP, "BLOCK_RELEVANCE", 16)


def image(generator):
    """Rows of one image: any, of low rank, some of them copies, some without length."""
    num_tokens = at_most(MOST_TOKENS, generator)
    rows = torch.randn(num_tokens, DIM, generator=generator) + 0.5
    kind = int(torch.randint(4, (1,), generator=generator))
    if kind == 1:
        rows[:, 3:] = 0.0
    elif kind == 2:
        rows[num_tokens // 2 :] = rows[: num_tokens - num_tokens // 2].clone()
    elif kind == 3:
        rows[::3] = 0.0
    return rows


@pytest.mark.parametrize("with_pool", [False, True])
@pytest.mark.parametrize(
    "backend, num_batches, size",
    [
        ("torch", 25, 200),
        ("triton", 1, 60),
        pytest.param("triton", 25, 200, marks=pytest.mark.slow),
    ],
)
def test_picks_are_the_best_in_float64(backend, num_batches, size, with_pool, count_ties):
    generator = torch.Generator().manual_seed(int(with_pool))
    num_picked = num_beyond_tie = 0
    for _ in range(num_batches):
        images = [image(generator) for _ in range(size)]
        lengths = [len(rows) for rows in images]
        x, relevance = torch.cat(images), torch.rand(sum(lengths), generator=generator)
        counts = [at_most(length, generator) if with_pool else length for length in lengths]
        budgets = [at_most(count, generator) for count in counts]
        candidates = [
            torch.randperm(length, generator=generator)[:count].sort().values
            for length, count in zip(lengths, counts, strict=True)
        ]
        pool = None
        if with_pool:
            rows, first = torch.full((len(x),), 2**62), 0
            for own, length in zip(candidates, lengths, strict=True):
                rows[first : first + len(own)] = first + own
                first += length
            pool = Pool(rows, torch.tensor(counts))
        picks = greedy_map(x, relevance, budgets, lengths=lengths, pool=pool, backend=backend)
        first, parts = 0, zip(images, candidates, picks.split(budgets), strict=True)
        for rows, own, own_picks in parts:
            if with_pool and len(own) == len(own_picks):
                assert torch.equal(own_picks - first, own)  # all of it, in no order
            else:
                own_relevance = relevance[first : first + len(rows)]
                num_beyond_tie += assert_picks(rows, own_relevance, own, own_picks - first)
            first += len(rows)
        num_picked += len(picks)
    count_ties(num_picked, 0, num_beyond_tie)
    assert num_beyond_tie == 0


def at_most(limit, generator):
    return int(torch.randint(1, limit + 1, (1,), generator=generator))
