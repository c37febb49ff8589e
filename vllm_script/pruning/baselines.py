"""Selections to compare with: even spacing and chance. Neither looks at the tokens."""

from __future__ import annotations

import torch

from vllm_script.kernels import to_device

from .task import Task


def uniform(task: Task) -> torch.Tensor:
    """Cut the tokens into `budget` equal stretches and keep the middle of each."""
    middles = 2 * torch.arange(task.budget, device=task.tokens.device) + 1
    return middles * task.num_tokens // (2 * task.budget)


def random(task: Task) -> torch.Tensor:
    """Keep a random subset that depends on the seed, the number of tokens and the budget."""
    generator = torch.Generator().manual_seed(task.params.seed)
    kept = torch.randperm(task.num_tokens, generator=generator)[: task.budget].sort().values
    return to_device(kept, task.tokens.device)
