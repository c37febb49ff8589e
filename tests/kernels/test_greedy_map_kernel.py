"""The kernel of greedy MAP against its reference and float64, and how its work is shared out."""

import sys

import pytest
import torch

from vllm_script.kernels import Pool
from vllm_script.kernels.greedy_map import num_programs, program_class, token_class
from vllm_script.kernels.testing import assert_picks, num_differing

from .ops import greedy_map

# a and b are the same; d is orthogonal to them; c lies between: cos(a, c) = 0.6, cos(c, d) = 0.8.
A, B, C, D = [1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]


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


def test_greedy_map_picks_are_those_of_more_posts_at_once(monkeypatch):
    """25 programs read their posts as 32 or as 64, of which most are nobody's."""
    module = sys.modules["vllm_script.kernels.greedy_map"]
    monkeypatch.setattr(module, "TOKENS_PER_PROGRAM", 2)
    monkeypatch.setattr(module, "num_waiting_programs", lambda device: 25)
    launch, launched, picks = module.launch_phases, [], []

    def noting(*args, BLOCK_PROGRAMS, **kwargs):
        launched.append(BLOCK_PROGRAMS)
        launch(*args, BLOCK_PROGRAMS=BLOCK_PROGRAMS, **kwargs)

    monkeypatch.setattr(module, "launch_phases", noting)
    rows = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    for classes in (32, 64), (16, 64):
        monkeypatch.setattr(module, "PROGRAM_CLASSES", classes)
        picks.append(greedy_map(rows, None, 24, backend="triton"))
    assert launched == [32, 64]
    assert torch.equal(*picks)
    assert torch.equal(picks[0], greedy_map(rows, None, 24, backend="torch"))


@pytest.mark.parametrize(
    "length, num_waiting, expected",
    [(1, 124, 32), (4096, 124, 32), (4097, 124, 64), (8192, 124, 64), (8192, 54, 32)],
)
def test_greedy_map_posts(length, num_waiting, expected):
    """A program has room for the posts of all programs of the image."""
    block_tokens = token_class(length, num_waiting)
    assert program_class(length, block_tokens) == expected
    assert num_programs([length], block_tokens, num_waiting) <= expected


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
