"""Greedy MAP of one image in plain PyTorch: what the kernels are held to, and what runs on CPUs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# A residual below this part of the token's first one is rounding: the picks already span it. The
# cosine of a row of 4,096 features with its copy is 1 but for 1e-6 in float32, and for 2e-6 where a
# CPU multiplies in bfloat16; twice that is left of the copy of a picked token.
RESIDUAL_FLOOR = 1e-5

# Values: rows of the factor start 128 bytes apart, so that no two share a cache line. The reference
# has rows for a multiple of as many tokens too: a BLAS adds up rows that are left over in another
# order, and equal ones would not tie.
ROW_ALIGNMENT = 32


def greedy_map_reference(
    similarity: torch.Tensor,
    has_length: torch.Tensor,
    relevance: torch.Tensor | None,
    budget: int,
    frame: torch.Tensor | None = None,
    floors: Sequence[int] | None = None,
) -> torch.Tensor:
    """`greedy_map` of one image in plain PyTorch, float32 throughout; any device.

    Args:
        similarity: [N, N] cosines.
        has_length: [N] bool, False for rows of zeros.
        frame: of a video, [N] int64, the number of each row's frame.
    """
    num_tokens, device = len(similarity), similarity.device
    weight = torch.ones_like(similarity[0]) if relevance is None else _unit_peak(relevance)
    # The factor of L is that of S with the weights, so S is left as it is, and weights count in
    # the scores alone.
    square, score = weight.square(), torch.empty_like(weight)
    # The cosine of a row with itself is 1, or 0 for a zero row; the product rounds it, and would
    # break ties by that noise.
    residual = has_length.to(torch.float32)
    # What the factor has of a token is one row: a step is a dot product for each token.
    height, width = (-(-size // ROW_ALIGNMENT) * ROW_ALIGNMENT for size in (num_tokens, budget))
    factor = similarity.new_zeros(height, width)
    projected = similarity.new_empty(height)
    picks: list[int] = []
    is_left = torch.ones(num_tokens, dtype=torch.bool, device=device)
    room = torch.tensor(floors or (), device=device)
    num_certain = sum(floors or ())
    for step in range(budget):
        torch.mul(residual, square, out=score)
        if frame is not None and step < num_certain:
            score = _score_where_room(score, weight, is_left & (room[frame] > 0))
        best = score.max(0)  # the first of equal ones
        peak, pick = float(best.values), int(best.indices)
        if peak <= 0 and step >= num_certain:
            break  # the picks span all others
        picks.append(pick)
        is_left[pick] = False
        if frame is not None and step < num_certain:
            room[frame[pick]] -= 1
        if peak > 0:  # else the picks span this one
            torch.mv(factor[:, :step], factor[pick, :step], out=projected)
            row = similarity[pick] - projected[:num_tokens]
            row *= float(residual[pick]) ** -0.5
            factor[:num_tokens, step] = row
            residual.addcmul_(row, row, value=-1)
        residual[pick] = 0.0
        torch.threshold_(residual, RESIDUAL_FLOOR, 0.0)
    rest = weight.masked_fill(~is_left, -torch.inf).argsort(descending=True, stable=True)
    return torch.cat([torch.tensor(picks, dtype=torch.int64, device=device), rest])[:budget]


def _score_where_room(
    score: torch.Tensor, weight: torch.Tensor, is_open: torch.Tensor
) -> torch.Tensor:
    """The score, or below all scores the weight, in [0, 1], of tokens that can be picked."""
    score = torch.where(score > 0, score, weight - 2)
    return score.masked_fill(~is_open, -torch.inf)


def _unit_peak(relevance: torch.Tensor) -> torch.Tensor:
    """Scale relevance to a maximum of 1, so that its square stays in float32; constant: ones."""
    low, high = relevance.aminmax()
    return torch.where(low == high, 1.0, relevance / high)
