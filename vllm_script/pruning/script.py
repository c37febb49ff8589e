"""Script: thin out what other tokens can stand for, then keep what the question is about.

    1. pool    GSP, graph-structured pruning. A token is redundant by its neighbours, the tokens of
               the other side of an alternating bipartite graph with a cosine S >= tau:

                   redundancy = degree * exp(gamma * (mean S of the neighbours - tau))

               The most redundant tokens of one side go, round after round, until
               max(budget, pool_ratio * N) are left. The other side stays, so that a large sky is
               thinned and never deleted.                                     kernels.reduce_graph

    2. picks   QCSP, query-conditioned semantic pruning. In the pool, the greedy MAP of the
               determinantal point process with L = diag(r) S diag(r), r the relevance: tokens that
               matter to the question and are unlike each other.                kernels.greedy_map

Source: Yang et al., TMLR 2025, arXiv 2512.01949. Differs: the paper intersects the selections of
GSP and QCSP; choosing inside the pool is that intersection, with a size that is known beforehand.

`gsp` is step 1 alone, `cdpruner` step 2 alone: the method of CDPruner
(Theia-4869/CDPruner@9541616), which picks the same tokens. In a video both steps know of frames:
GSP goes window by window (frames.py), and QCSP gives every frame its floor first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from vllm_script.kernels import Pool, Similarity, cosine_similarity, greedy_map, reduce_graph

from .frames import reduce_video_graph
from .geometry import corrected_similarity, weights_of
from .task import Task, kept_of_picks


def script(tasks: Sequence[Task]) -> list[torch.Tensor]:
    """Thin the tokens to a pool, then select in it by relevance and diversity."""
    similarity = _similarity(tasks)
    pool = _thin(similarity, tasks, [max(task.budget, _pool_size(task)) for task in tasks])
    return _pick(corrected_similarity(tasks, similarity), tasks, pool, _relevance(tasks))


def gsp(tasks: Sequence[Task]) -> list[torch.Tensor]:
    """Thin the tokens to the budget; if edges run out first, keep the most diverse of the rest."""
    similarity = _similarity(tasks)
    pool = _thin(similarity, tasks, [task.budget for task in tasks])
    return _pick(similarity, tasks, pool, None)


def cdpruner(tasks: Sequence[Task]) -> list[torch.Tensor]:
    """Select among all tokens by relevance and diversity."""
    return _pick(corrected_similarity(tasks), tasks, None, _relevance(tasks))


def _similarity(tasks: Sequence[Task]) -> Similarity:
    """How alike the tokens of each task are: both steps read it."""
    return cosine_similarity([task.tokens for task in tasks], backend=tasks[0].backend)


def _relevance(tasks: Sequence[Task]) -> torch.Tensor | None:
    """Relevance of the tokens of all tasks, one task after the other; None: it has no say."""
    return weights_of(tasks, [task.relevance for task in tasks])


def _pool_size(task: Task) -> int:
    """Tokens that GSP leaves to QCSP, if that is no less than the budget."""
    return math.floor(task.params.pool_ratio * task.num_tokens + 0.5)


def _thin(similarity: Similarity, tasks: Sequence[Task], targets: Sequence[int]) -> Pool:
    """GSP: of each task as many tokens as its target are left, or more where edges ran out."""
    if tasks[0].floors is not None:
        (task,), (target,) = tasks, targets
        return reduce_video_graph(similarity, task, target)
    return reduce_graph(similarity, targets, **tasks[0].params.graph)


def _pick(
    similarity: Similarity,
    tasks: Sequence[Task],
    pool: Pool | None,
    relevance: torch.Tensor | None,
) -> list[torch.Tensor]:
    """QCSP: of each task the budget of the pool's tokens, or of all without a pool, ascending."""
    budgets = [task.budget for task in tasks]
    picks = greedy_map(similarity, relevance, budgets, pool=pool, floors=tasks[0].floors)
    return kept_of_picks(picks, tasks)
