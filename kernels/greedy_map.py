"""Greedy MAP of a determinantal point process: tokens that are relevant and unlike each other.

L = diag(r) S diag(r), S the cosine similarity. Every step takes the token with the largest
residual variance (what its own L[i, i] has left after the picked ones are projected out).

Source: Chen et al. 2018 (arXiv 1709.05135), Algorithm 1: an incremental Cholesky factor, one
row a pick, O(budget^2 N) time and O(budget N) memory beside L.
"""

from __future__ import annotations

import torch

# Residuals below this part of the first one are rounding: the picks already span the tokens.
RESIDUAL_FLOOR = 1e-6


def greedy_map(unit: torch.Tensor, relevance: torch.Tensor | None, budget: int) -> torch.Tensor:
    """Pick `budget` tokens; ties go to the lowest index. Never waits for the device.

    When the picked tokens span all others, relevance descending fills the remaining places.

    Args:
        unit: [N, D] float32, unit rows (zero rows allowed).
        relevance: [N] float32, finite and >= 0, high = keep. Its scale does not matter. None
            or a constant: diversity alone decides.
        budget: tokens to pick, in [1, N].

    Returns:
        picked indices [budget] int64, in pick order.

    Raises:
        ValueError: budget is not in [1, N].
    """
    num_tokens = len(unit)
    if not 1 <= budget <= num_tokens:
        raise ValueError(f"budget must be in [1, {num_tokens}], got {budget}")
    weight = unit.new_ones(num_tokens) if relevance is None else _unit_peak(relevance)
    weighted = unit * weight[:, None]
    kernel = weighted @ weighted.T  # [N, N]
    # The cosine of a row with itself is 1, or 0 for a zero row; the product rounds it, and would
    # break ties by that noise.
    residual = torch.where(unit.any(1), weight.square(), 0.0)
    floor = RESIDUAL_FLOOR * residual.max()
    factor = unit.new_empty(budget, num_tokens)
    picks = torch.empty(budget, dtype=torch.int64, device=unit.device)
    peaks = unit.new_empty(budget)
    for step in range(budget):
        pick = residual.argmax(0, keepdim=True)  # [1]
        peak = residual[pick]
        projected = factor[:step, pick].T @ factor[:step]  # [1, N]
        # At the floor the row is zeroed, not divided by rounding: later picks do not count.
        scale = torch.where(peak > floor, peak.rsqrt(), 0.0)
        factor[step] = ((kernel[pick] - projected) * scale)[0]
        residual -= factor[step].square()
        residual.index_fill_(0, pick, -torch.inf)
        picks[step : step + 1], peaks[step : step + 1] = pick, peak
    return _fill_by_weight(picks, (peaks > floor).sum(), weight)


def _unit_peak(relevance: torch.Tensor) -> torch.Tensor:
    """Scale relevance to a maximum of 1, so that its square stays in float32; constant: ones."""
    low, high = relevance.aminmax()
    return torch.where(low == high, 1.0, relevance / high)


def _fill_by_weight(
    picks: torch.Tensor, num_valid: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Replace picks after the first `num_valid` by the heaviest tokens not among those."""
    place = torch.arange(len(picks), device=picks.device)
    valid = place < num_valid
    taken = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
    taken[picks] = valid
    rest = weight.masked_fill(taken, -torch.inf).argsort(descending=True, stable=True)
    return torch.where(valid, picks, rest[(place - num_valid).clamp(min=0)])
