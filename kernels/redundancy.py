"""Redundancy of each source token in a bipartite cosine graph; high = safe to drop.

    edges[i]      = {j : <src_i, dst_j> >= tau}
    redundancy[i] = |edges[i]| * exp(gamma * (mean similarity over edges[i] - tau))

Source: Script (arXiv 2512.01949), graph-structured pruning. Differs from the published code
(01yzzyu/script.github.io@7e5e2f3 Script/llava/model/llava_arch.py:249-263): that one scores
a full graph with self edges and keeps the highest scores.
"""

from __future__ import annotations

import torch

# Rows of src scored at once: 256 x 1440 float32 similarities stay in a core's cache.
BLOCK_ROWS = 256


def bipartite_redundancy(
    src: torch.Tensor, dst: torch.Tensor, tau: float | torch.Tensor, gamma: float
) -> torch.Tensor:
    """Return the redundancy of every src token, given the dst tokens that could stand for it.

    Args:
        src: [S, D] float32, unit rows.
        dst: [T, D] float32, unit rows.
        tau: smallest cosine similarity that makes an edge; a number or a 0-dim tensor.
        gamma: weight of how close the neighbours are against how many they are, >= 0.

    Returns:
        redundancy [S] float32; 0 exactly where a token has no edge.
    """
    redundancy = torch.empty(len(src), dtype=torch.float32, device=src.device)
    for start in range(0, len(src), BLOCK_ROWS):
        similarity = src[start : start + BLOCK_ROWS] @ dst.T  # [rows, T]
        edge = similarity >= tau
        degree = edge.sum(1)
        strength = torch.where(edge, similarity, 0.0).sum(1)
        mean_similarity = strength / degree.clamp(min=1)
        redundancy[start : start + BLOCK_ROWS] = degree * torch.exp(gamma * (mean_similarity - tau))
    return redundancy
