"""Selections to compare with: DivPrune, even spacing, chance. None reads the relevance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vllm_script.kernels import unit_rows

if TYPE_CHECKING:
    from . import PruningParams


def divprune(
    visual_tokens: torch.Tensor,
    budget: int,
    relevance: torch.Tensor | None,
    params: PruningParams,
) -> torch.Tensor:
    """Spread the picks: each next one is the token farthest from its nearest pick.

    Distance is 1 - cosine. The first pick is the token whose nearest neighbour is farthest.
    Source: vbdi/divprune@799e2d9 LLaVA/llava/model/llava_arch.py:152-175. Differs: the nearest
    pick is updated instead of searched again, O(budget N) instead of O(budget^2 N).
    """
    unit = unit_rows(visual_tokens)
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)
    pick = similarity.amax(1).argmin(0, keepdim=True)  # [1]
    nearest_pick = torch.full_like(similarity[0], -torch.inf)  # similarity; picked: +inf
    picks = []
    for _ in range(budget):
        picks.append(pick)
        nearest_pick = torch.maximum(nearest_pick, similarity[pick][0])
        nearest_pick.index_fill_(0, pick, torch.inf)
        pick = nearest_pick.argmin(0, keepdim=True)
    return torch.cat(picks).sort().values


def uniform(
    visual_tokens: torch.Tensor,
    budget: int,
    relevance: torch.Tensor | None,
    params: PruningParams,
) -> torch.Tensor:
    """Cut the tokens into `budget` equal stretches and keep the middle of each."""
    num_tokens = len(visual_tokens)
    middles = 2 * torch.arange(budget, device=visual_tokens.device) + 1
    return middles * num_tokens // (2 * budget)


def random(
    visual_tokens: torch.Tensor,
    budget: int,
    relevance: torch.Tensor | None,
    params: PruningParams,
) -> torch.Tensor:
    """Keep a random subset that depends on the seed, the number of tokens and the budget."""
    generator = torch.Generator().manual_seed(params.seed)
    kept = torch.randperm(len(visual_tokens), generator=generator)[:budget].sort().values
    return kept.to(visual_tokens.device)
