import math

import pytest
import torch

from vllm_script.kernels import bipartite_redundancy, unit_rows
from vllm_script.kernels.redundancy import BLOCK_ROWS
from vllm_script.kernels.testing import unit_rows64

BACKENDS = ["torch", "triton"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_bipartite_redundancy_by_hand(backend):
    src = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.6, 0.8], [-1.0, 0.0]])
    dst = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    # Similarities   edges >= 0.5   mean
    # 1.0  1.0  0.0        2        1
    # 0.0  0.0  1.0        1        1
    # 0.6  0.6  0.8        3        2/3
    # -1   -1   0.0        0        -
    expected = [2 * math.exp(0.5), math.exp(0.5), 3 * math.exp(2 / 3 - 0.5), 0.0]
    actual = bipartite_redundancy(src, dst, 0.5, 1.0, backend)
    torch.testing.assert_close(actual, torch.tensor(expected))


@pytest.mark.parametrize(
    "num_src, num_dst, dim",
    [(1, 1, 1), (63, 100, 17), (BLOCK_ROWS, 33, 8), (BLOCK_ROWS + 1, 300, 8), (5, 0, 4)],
)
def test_bipartite_redundancy_follows_formula(num_src, num_dst, dim):
    generator = torch.Generator().manual_seed(0)
    src = torch.randn(num_src, dim, generator=generator)
    dst = torch.randn(num_dst, dim, generator=generator)
    tau, gamma = 0.25, 2.0
    similarity = unit_rows(src) @ unit_rows(dst).T
    expected = torch.zeros(num_src)
    for row in range(num_src):
        edges = similarity[row][similarity[row] >= tau]
        if len(edges):
            expected[row] = len(edges) * torch.exp(gamma * (edges.mean() - tau))
    actual = bipartite_redundancy(src, dst, tau, gamma)
    torch.testing.assert_close(actual, expected)
    assert torch.equal(actual == 0, expected == 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tau, has_edge", [(1.0, True), (1.001, False)])
def test_bipartite_redundancy_edge_includes_tau(tau, has_edge, backend):
    row = torch.tensor([[1.0, 0.0]])
    assert bool(bipartite_redundancy(row, row, tau, 1.0, backend) > 0) == has_edge


@pytest.mark.parametrize(
    "num_src, num_dst, dim",
    [(1, 1, 1), (63, 100, 63), (5, 0, 4), (130, 300, 64)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_bipartite_redundancy_kernel(num_src, num_dst, dim, dtype, request):
    _compare(num_src, num_dst, dim, dtype, request)


@pytest.mark.parametrize("num_src, num_dst, dim", [(288, 288, 1024), (1464, 1464, 256)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_bipartite_redundancy_kernel_large(num_src, num_dst, dim, dtype, large_tiles, request):
    _compare(num_src, num_dst, dim, dtype, request)


def _compare(num_src, num_dst, dim, dtype, request):
    """Strided rows with a common offset, so that not all are orthogonal."""
    generator = torch.Generator().manual_seed(0)
    rows = (torch.randn(2 * (num_src + num_dst), dim, generator=generator) + 0.5).to(dtype)[::2]
    src, dst = rows[:num_src], rows[num_src:]
    similarity = unit_rows64(src) @ unit_rows64(dst).T
    tau, gamma = request.getfixturevalue("clear_threshold")(similarity), 2.0
    edge = similarity >= tau
    degree = edge.sum(1)
    mean_similarity = torch.where(edge, similarity, 0.0).sum(1) / degree.clamp(min=1)
    exact = degree * torch.exp(gamma * (mean_similarity - tau))
    actual = bipartite_redundancy(src, dst, tau, gamma, "triton")
    reference = bipartite_redundancy(src, dst, tau, gamma, "torch")
    request.getfixturevalue("assert_as_accurate")(actual, reference, exact)
    assert torch.equal(actual == 0, reference == 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bipartite_redundancy_counts_bad_features_as_zero(backend):
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(90, 40, generator=generator)
    bad = torch.rand(90, 40, generator=generator) < 0.02
    clean[bad] = 0.0
    spoiled = clean.masked_fill(bad, torch.nan)
    spoiled[7, 3], clean[7, 3] = torch.inf, 0.0
    spoiled[8], clean[8] = 3e38, 0.0  # its length leaves the range of float32
    results = [
        bipartite_redundancy(rows[:50], rows[50:], 0.05, 1.0, backend) for rows in (clean, spoiled)
    ]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_bipartite_redundancy_kernel_integers_are_exact(dtype):
    """Rows of 4, 16 or 64 times +-1: cosines, degrees and sums are exact, and so is gamma 0."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.zeros(140, 64)
    for row in rows:
        size = 4 ** int(torch.randint(1, 4, (1,), generator=generator))
        places = torch.randperm(64, generator=generator)[:size]
        row[places] = torch.randint(2, (size,), generator=generator) * 2.0 - 1.0
    rows = rows.to(dtype)
    for tau in (0.0, 0.25, -0.125):
        results = [
            bipartite_redundancy(rows[::2], rows[1::2], tau, 0.0, backend) for backend in BACKENDS
        ]
        assert torch.equal(*results)


@pytest.mark.parametrize(
    "src, dst, message",
    [
        (torch.ones(2, 3), torch.ones(2, 4), "agree in row length and dtype"),
        (torch.ones(2, 3), torch.ones(2, 3).half(), "agree in row length and dtype"),
        (torch.ones(2, 3).double(), torch.ones(2, 3), "src must be float32, float16 or bfloat16"),
    ],
)
def test_bipartite_redundancy_errors(src, dst, message):
    with pytest.raises(ValueError, match=message):
        bipartite_redundancy(src, dst, 0.5, 1.0)
