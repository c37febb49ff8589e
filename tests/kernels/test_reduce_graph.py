import math

import pytest
import torch

from vllm_script.kernels import Pool, unit_rows
from vllm_script.kernels.reduce_graph import (
    MAX_ROUNDS,
    REFERENCE_ROWS,
    edge_threshold,
    redundancy_reference,
)
from vllm_script.kernels.testing import assert_rounds, num_differing, rows_of

from .ops import reduce_graph

BACKENDS = ["torch", "triton"]

# gamma 0 makes the redundancy of a token its number of edges.
COUNT_EDGES = {"tau": 0.5, "tau_relative": False, "gamma": 0.0}
RELATIVE = {"tau": 0.1, "tau_relative": True, "gamma": 1.0}

# Three axes as tokens: equal letters have cosine 1, different ones 0.
LETTERS = "AAABCABC"


def letters(text: str) -> torch.Tensor:
    return torch.eye(3)[[ord(letter) - ord("A") for letter in text]]


def survivors(x: torch.Tensor, target: int, **settings) -> torch.Tensor:
    pool = reduce_graph(x, target, **settings)
    return rows_of(*pool, [len(x)])[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "target, expected",
    [
        # Round 0: src 0A 2A 4C 6B, dst 1A 3B 5A 7C. Edges: 0A 2, 2A 2, 4C 1, 6B 1.
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (7, [1, 2, 3, 4, 5, 6, 7]),  # 0A ties with 2A: the lowest index goes first
        (6, [1, 3, 4, 5, 6, 7]),  # two are half of src: no more in this round
        # Round 1: src 3B 5A 7C, dst 1A 4C 6B: one edge each, so 3B goes first, then 5A.
        (5, [1, 4, 5, 6, 7]),
        (4, [1, 4, 6, 7]),
        # Round 2: src 1A 6B, dst 4C 7C: no edge, also not the other way round. Stop.
        (3, [1, 4, 6, 7]),
    ],
)
def test_reduce_graph_by_hand(target, expected, backend):
    kept = survivors(letters(LETTERS), target, **COUNT_EDGES, backend=backend)
    assert kept.tolist() == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_reduce_graph_swaps_roles(backend):
    # Round 0: src 0A 2B 4C, dst 1A 3A 5A: 0A goes. Left 1A 2B 3A 4C 5A.
    # Round 1: src 2B 4C, dst 1A 3A 5A: none.
    kept = survivors(letters("AABACA"), 1, **COUNT_EDGES, backend=backend)
    assert kept.tolist() == [1, 2, 3, 4, 5]
    # Round 0: src 0B 2A 4C, dst 1A 3A 5B: 0B and 2A go. Left 1A 3A 4C 5B.
    # Round 1: src 3A 5B, dst 1A 4C: 3A goes. Left 1A 4C 5B, no edge.
    kept = survivors(letters("BAAACB"), 1, **COUNT_EDGES, backend=backend)
    assert kept.tolist() == [1, 4, 5]


@pytest.mark.parametrize(
    "changed",
    [{}, {"tau": 1.0}, {"tau": 1.0, "tau_relative": False}],
    ids=["relative", "relative-1", "absolute-1"],
)
@pytest.mark.parametrize(
    "num_tokens, dim, backend",
    [
        *((num_tokens, dim, "torch") for num_tokens in (2, 9, 64) for dim in (1, 63, 4096)),
        *((9, dim, "triton") for dim in (1, 63)),
    ],
)
def test_reduce_graph_thins_exact_duplicates_to_one(num_tokens, dim, backend, changed):
    row = torch.randn(1, dim, generator=torch.Generator().manual_seed(dim))
    rows = row.repeat(num_tokens, 1)
    assert len(survivors(rows, 1, **{**RELATIVE, **changed}, backend=backend)) == 1


def test_edge_threshold_relative_to_mean():
    generator = torch.Generator().manual_seed(0)
    src, dst = (unit_rows(torch.randn(n, 8, generator=generator) + 1.0) for n in (20, 21))
    expected = (src @ dst.T).mean() + 0.1
    torch.testing.assert_close(edge_threshold(src @ dst.T, 0.1, True), expected)
    assert edge_threshold(src @ dst.T, 0.1, False) == 0.1


def test_redundancy_by_hand():
    similarity = torch.tensor(
        [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.6, 0.6, 0.8], [-1.0, -1.0, 0.0]]
    )
    # edges >= 0.5: 2, 1, 3, none; their means 1, 1, 2/3
    expected = [2 * math.exp(0.5), math.exp(0.5), 3 * math.exp(2 / 3 - 0.5), 0.0]
    torch.testing.assert_close(redundancy_reference(similarity, 0.5, 1.0), torch.tensor(expected))


@pytest.mark.parametrize(
    "num_src, num_dst", [(1, 1), (63, 100), (REFERENCE_ROWS, 33), (REFERENCE_ROWS + 1, 300)]
)
def test_redundancy_follows_formula(num_src, num_dst):
    similarity = 2 * torch.rand(num_src, num_dst, generator=torch.Generator().manual_seed(0)) - 1
    tau, gamma = 0.25, 2.0
    expected = torch.zeros(num_src)
    for row in range(num_src):
        edges = similarity[row][similarity[row] >= tau]
        if len(edges):
            expected[row] = len(edges) * torch.exp(gamma * (edges.mean() - tau))
    actual = redundancy_reference(similarity, tau, gamma)
    torch.testing.assert_close(actual, expected)
    assert torch.equal(actual == 0, expected == 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tau, num_left", [(1.0, 1), (1.001, 1), (0.998, 1)])
def test_an_edge_begins_at_tau_or_at_a_duplicate(tau, num_left, backend):
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    settings = {"tau": tau, "tau_relative": False, "gamma": 1.0, "backend": backend}
    assert len(survivors(rows, 1, **settings)) == num_left


def clustered(seed: int, num_tokens: int = 400, dim: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [N, D] in clusters, with a common offset as real features have, and their labels.

    Label 0 has 35 % of the tokens, labels 1 to 100 about 2 or 3 tokens each.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(1, 101, (num_tokens,), generator=generator)
    wall = torch.randperm(num_tokens, generator=generator)[: num_tokens * 35 // 100]
    labels[wall] = 0
    centres = torch.randn(101, dim, generator=generator) + 0.8
    return centres[labels] + 0.3 * torch.randn(num_tokens, dim, generator=generator), labels


def test_redundancy_decides_what_is_dropped():
    """Every token has a neighbour here, and still not simply every second one goes."""
    rows, labels = clustered(0)
    kept = survivors(rows, len(rows) // 2, tau=-1.0, tau_relative=False, gamma=1.0)
    assert 0.25 < (kept % 2).float().mean() < 0.75
    assert (labels[kept] == 0).float().mean() < 0.3  # 35 % of all tokens


@pytest.mark.parametrize("keep", [0.5, 0.25])
@pytest.mark.parametrize("seed", range(5))
def test_reduce_graph_thins_a_wall_and_keeps_some(seed, keep):
    rows, labels = clustered(seed)
    kept = survivors(rows, int(keep * len(rows)), **RELATIVE)
    kept_wall = (labels[kept] == 0).sum() / (labels == 0).sum()
    kept_rest = (labels[kept] != 0).sum() / (labels != 0).sum()
    assert 0 < kept_wall < kept_rest


@pytest.mark.parametrize("settings", [RELATIVE, COUNT_EDGES], ids=["relative", "absolute"])
@pytest.mark.parametrize("seed", range(5))
def test_a_round_leaves_a_neighbour_of_all_it_drops(seed, settings):
    unit = unit_rows(clustered(seed)[0])
    similarity = unit @ unit.T
    before, num_dropped = torch.arange(len(unit)), 0
    for round_index in range(6):
        parity = round_index % 2
        src, dst = before[parity::2], before[1 - parity :: 2]
        block = unit[src] @ unit[dst].T
        threshold = edge_threshold(block, settings["tau"], settings["tau_relative"])
        after = survivors(unit, 1, **settings, num_rounds=round_index + 1)
        dropped = before[~torch.isin(before, after)]
        neighbour = similarity[dropped][:, after] >= threshold - 1e-6  # [dropped, after]
        assert neighbour.any(1).all()
        num_dropped += len(dropped)
        before = after
    assert num_dropped > 100


def _check_rounds(rows, target, settings, count_ties):
    """Every round of the kernel is right in float64, and the reference agrees but for ties."""

    def after(num_rounds):
        return survivors(rows, target, **settings, num_rounds=num_rounds, backend="triton")

    kept = assert_rounds(rows, target, after, **settings)
    assert torch.equal(kept, after(MAX_ROUNDS))
    reference = survivors(rows, target, **settings)
    count_ties(len(rows) - len(reference), num_differing(kept, reference))


@pytest.mark.parametrize("num_tokens, dim, target", [(1, 1, 1), (2, 3, 1), (63, 100, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("settings", [RELATIVE, COUNT_EDGES], ids=["relative", "absolute"])
def test_reduce_graph_kernel(num_tokens, dim, target, dtype, settings, count_ties):
    wide = clustered(1, 2 * num_tokens, dim)[0].to(dtype)
    _check_rounds(wide[::2], target, settings, count_ties)


@pytest.mark.parametrize("num_tokens, dim", [(576, 1024), (2928, 256)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_reduce_graph_kernel_large(num_tokens, dim, dtype, large_tiles, count_ties):
    wide = clustered(1, 2 * num_tokens, dim)[0].to(dtype)
    _check_rounds(wide[::2], num_tokens // 2, RELATIVE, count_ties)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("settings", [RELATIVE, COUNT_EDGES], ids=["relative", "absolute"])
def test_reduce_graph_kernel_integers_are_identical(dtype, settings):
    """Rows of 4 or 16 times +-1: cosines are multiples of 1/16 and exact. Ties are everywhere."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.zeros(150, 32)
    for row in rows:
        size = 4 ** int(torch.randint(1, 3, (1,), generator=generator))
        row[torch.randperm(32, generator=generator)[:size]] = 1.0
    for num_rounds in (1, 2, MAX_ROUNDS):
        kept = [
            survivors(rows.to(dtype), 30, **settings, num_rounds=num_rounds, backend=backend)
            for backend in BACKENDS
        ]
        assert torch.equal(*kept)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reduce_graph_many_images(backend):
    """An image gets the pool it gets alone, whatever lies beside it."""
    lengths, targets = [1, 60, 39, 2, 70], [1, 30, 7, 2, 1]
    rows = clustered(2, sum(lengths))[0]
    pool = reduce_graph(rows, targets, **RELATIVE, lengths=lengths, backend=backend)
    batch, first = rows_of(*pool, lengths), 0
    for kept, image, target in zip(batch, rows.split(lengths), targets, strict=True):
        alone = survivors(image, target, **RELATIVE, backend=backend)
        assert torch.equal(kept - first, alone)
        first += len(image)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reduce_graph_in_windows(backend):
    """A window gets what its rows get as an image of their own, in their order."""
    rows = clustered(4, 100)[0]
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    windows, targets = order.split([40, 1, 59]), [20, 1, 7]
    pool = reduce_graph(rows, targets, **RELATIVE, windows=windows, backend=backend)
    kept = rows_of(*pool, [40, 1, 59])
    for window, target, ours in zip(windows, targets, kept, strict=True):
        alone = survivors(rows[window], target, **RELATIVE, backend=backend)
        assert torch.equal(ours, window[alone])


def test_reduce_graph_windows_errors():
    with pytest.raises(ValueError, match="windows are of one image, got 2 images"):
        reduce_graph(torch.eye(4), [1, 1], **RELATIVE, lengths=[2, 2], windows=[torch.arange(4)])
    with pytest.raises(ValueError, match="windows add up to 3 rows, got 4"):
        reduce_graph(torch.eye(4), [1], **RELATIVE, windows=[torch.arange(3)])


def test_reduce_graph_counts_stay_tensors():
    pool = reduce_graph(letters(LETTERS), 6, **COUNT_EDGES)
    assert isinstance(pool, Pool) and pool.counts.tolist() == [6] and pool.rows.dtype == torch.int64


@pytest.mark.parametrize(
    "target, lengths, message",
    [
        ([2], [2, 2], r"a target for each of 2 images, got \[2\]"),
        ([1, 3], [2, 2], r"target must be in \[1, 2\], got 3"),
        (0, None, r"target must be in \[1, 4\], got 0"),
    ],
)
def test_reduce_graph_errors(target, lengths, message):
    with pytest.raises(ValueError, match=message):
        reduce_graph(torch.eye(4), target, **RELATIVE, lengths=lengths)
