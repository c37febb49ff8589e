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

import torch

from vllm_script.kernels import Pool, greedy_map, reduce_graph

from .frames import reduce_video_graph
from .task import Task, one_by_one


@one_by_one
def script(task: Task) -> torch.Tensor:
    """Thin the tokens to a pool, then select in it by relevance and diversity."""
    size = math.floor(task.params.pool_ratio * task.num_tokens + 0.5)
    return _pick(task, _thin(task, max(task.budget, size)), task.relevance)


@one_by_one
def gsp(task: Task) -> torch.Tensor:
    """Thin the tokens to the budget; if edges run out first, keep the most diverse of the rest."""
    return _pick(task, _thin(task, task.budget), None)


@one_by_one
def cdpruner(task: Task) -> torch.Tensor:
    """Select among all tokens by relevance and diversity."""
    return _pick(task, None, task.relevance)


def _thin(task: Task, target: int) -> Pool:
    """GSP: what is left of an image or a video, `target` tokens or more where edges ran out."""
    if task.floors is not None:
        return reduce_video_graph(task, target)
    return reduce_graph(
        task.tokens,
        target,
        **task.params.graph,
        inverse_norm=task.inverse_norm,
        backend=task.backend,
    )


def _pick(task: Task, pool: Pool | None, relevance: torch.Tensor | None) -> torch.Tensor:
    """QCSP: the budget of the pool's tokens, or of all where there is no pool, ascending."""
    picks: torch.Tensor = greedy_map(
        task.tokens,
        relevance,
        task.budget,
        pool=pool,
        floors=task.floors,
        inverse_norm=task.inverse_norm,
        backend=task.backend,
    )
    return picks.sort().values
