"""Selections to compare with: DivPrune, even spacing, chance. None of them reads the relevance."""

from __future__ import annotations

import torch

from vllm_script.kernels import inverse_norms, to_device, unit_rows

from .task import Task


def divprune(task: Task) -> torch.Tensor:
    """Spread the picks: each next one is the token farthest from its nearest pick.

    Distance is 1 - cosine. The first pick is the token whose nearest neighbour is farthest.
    Source: vbdi/divprune@799e2d9 LLaVA/llava/model/llava_arch.py:152-175. Differs: the nearest
    pick is updated instead of searched again, O(budget N) instead of O(budget^2 N).
    """
    unit = unit_rows(task.tokens, inverse_norms(task.tokens, task.backend))
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)
    pick = similarity.amax(1).argmin(0, keepdim=True)  # [1]
    nearest_pick = torch.full_like(similarity[0], -torch.inf)  # similarity; picked: +inf
    picks = []
    for _ in range(task.budget):
        picks.append(pick)
        nearest_pick = torch.maximum(nearest_pick, similarity[pick][0])
        nearest_pick.index_fill_(0, pick, torch.inf)
        pick = nearest_pick.argmin(0, keepdim=True)
    return torch.cat(picks).sort().values


def uniform(task: Task) -> torch.Tensor:
    """Cut the tokens into `budget` equal stretches and keep the middle of each."""
    middles = 2 * torch.arange(task.budget, device=task.tokens.device) + 1
    return middles * task.num_tokens // (2 * task.budget)


def random(task: Task) -> torch.Tensor:
    """Keep a random subset that depends on the seed, the number of tokens and the budget."""
    generator = torch.Generator().manual_seed(task.params.seed)
    kept = torch.randperm(task.num_tokens, generator=generator)[: task.budget].sort().values
    return to_device(kept, task.tokens.device)
