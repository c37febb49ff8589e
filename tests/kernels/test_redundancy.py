import math

import pytest
import torch

from vllm_script.kernels import bipartite_redundancy, unit_rows
from vllm_script.kernels.redundancy import BLOCK_ROWS


@pytest.mark.parametrize("tau", [0.5, torch.tensor(0.5)], ids=["number", "tensor"])
def test_bipartite_redundancy_by_hand(tau):
    src = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])
    dst = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    # Similarities   edges >= 0.5   mean
    # 1.0  1.0  0.0        2        1
    # 0.0  0.0  1.0        1        1
    # 0.6  0.6  0.8        3        2/3
    # -1   -1   0.0        0        -
    expected = [2 * math.exp(0.5), math.exp(0.5), 3 * math.exp(2 / 3 - 0.5), 0.0]
    torch.testing.assert_close(bipartite_redundancy(src, dst, tau, 1.0), torch.tensor(expected))


@pytest.mark.parametrize(
    "num_src, num_dst, dim",
    [(1, 1, 1), (63, 100, 17), (BLOCK_ROWS, 33, 8), (BLOCK_ROWS + 1, 300, 8), (5, 0, 4)],
)
def test_bipartite_redundancy_follows_formula(num_src, num_dst, dim):
    generator = torch.Generator().manual_seed(0)
    src = unit_rows(torch.randn(num_src, dim, generator=generator))
    dst = unit_rows(torch.randn(num_dst, dim, generator=generator))
    tau, gamma = 0.25, 2.0
    similarity = src @ dst.T
    expected = torch.zeros(num_src)
    for row in range(num_src):
        edges = similarity[row][similarity[row] >= tau]
        if len(edges):
            expected[row] = len(edges) * torch.exp(gamma * (edges.mean() - tau))
    actual = bipartite_redundancy(src, dst, tau, gamma)
    torch.testing.assert_close(actual, expected)
    assert torch.equal(actual == 0, expected == 0)


@pytest.mark.parametrize("tau, has_edge", [(1.0, True), (1.001, False)])
def test_bipartite_redundancy_edge_includes_tau(tau, has_edge):
    row = torch.tensor([[1.0, 0.0]])
    assert bool(bipartite_redundancy(row, row, tau, 1.0) > 0) == has_edge
