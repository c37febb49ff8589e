"""Script: thin out what other tokens can stand for, then keep what the question is about.

    1. pool     GSP, graph-structured pruning. A token is redundant by its neighbours, the tokens
                of the other side of an alternating bipartite graph with a cosine S >= tau:

                    redundancy = degree * exp(gamma * (mean S of the neighbours - tau))

                The most redundant tokens of one side go, round after round, until
                budget + pool_ratio * (N - budget) are left. The other side stays, so that a large
                sky is thinned and never deleted.                          kernels.reduce_graph

    2. context  An eighth of the budget goes to what the picture shows, whatever the question: the
                pool's tokens that are most unlike each other, by greedy MAP. kernels.greedy_map

    3. guard    The pool is chosen before the question is read, so the most relevant tokens, as
                many as the budget, join it.

    4. picks    QCSP, query-conditioned semantic pruning. In the pool, the greedy MAP of the
                determinantal point process with L = diag(r) S diag(r), r the relevance, after the
                context is picked: tokens that matter to the question and are unlike each other,
                and unlike the context.                                      kernels.greedy_map

Source: Yang et al., TMLR 2025, arXiv 2512.01949. Differs: the paper intersects the selections of
GSP and QCSP; choosing inside the pool is that intersection, with a size that is known beforehand.
Guard and context are ours: benchmarks/README.md has what they are worth on photographs.

`gsp` is what is left without a question: the pool's tokens that are most unlike each other.
`cdpruner` is QCSP alone, among all tokens: the method of CDPruner (Theia-4869/CDPruner@9541616),
which picks the same ones. In a video GSP goes window by window (frames.py), and QCSP gives every
frame its floor first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from vllm_script.kernels import (
    Pool,
    Similarity,
    cosine_similarity,
    greedy_map,
    reduce_graph,
    to_device,
)

from .frames import reduce_video_graph
from .geometry import corrected_similarity, weights_of
from .pools import Layout, layout_of, mask_of, pool_of
from .task import Task, kept_of_picks

# One token in so many of the budget is picked without the question.
CONTEXT = 8

# The context weighs so much more than the most relevant token that it is picked first. A power of
# two, which rounds no relevance.
FIRST = 1024.0


def script(tasks: Sequence[Task]) -> list[torch.Tensor]:
    """Thin the tokens to a pool, then select in it by relevance and diversity."""
    relevance = _relevance(tasks)
    if relevance is None:
        return gsp(tasks)
    similarity = _similarity(tasks)
    pool = _thin(similarity, tasks)
    layout = layout_of(similarity.lengths, similarity.device)
    weight, is_top = _weigh(relevance, tasks, layout)
    weight.index_fill_(0, _context(similarity, tasks, pool), FIRST)
    pool = pool_of(mask_of(pool, layout) | is_top, layout)
    return _pick(corrected_similarity(tasks, similarity), tasks, pool, weight)


def gsp(tasks: Sequence[Task]) -> list[torch.Tensor]:
    """Thin the tokens to a pool, then keep the tokens in it that are most unlike each other."""
    similarity = _similarity(tasks)
    return _pick(similarity, tasks, _thin(similarity, tasks), None)


def cdpruner(tasks: Sequence[Task]) -> list[torch.Tensor]:
    """Select among all tokens by relevance and diversity."""
    return _pick(corrected_similarity(tasks), tasks, None, _relevance(tasks))


def _similarity(tasks: Sequence[Task]) -> Similarity:
    """How alike the tokens of each task are: both steps read it."""
    return cosine_similarity([task.tokens for task in tasks], backend=tasks[0].backend)


def _relevance(tasks: Sequence[Task]) -> torch.Tensor | None:
    """Relevance of the tokens of all tasks, one task after the other; None: it has no say."""
    return weights_of(tasks, [task.relevance for task in tasks])


def _thin(similarity: Similarity, tasks: Sequence[Task]) -> Pool:
    """GSP: of each task as many tokens as are wanted in its pool, more where edges ran out."""
    targets = [_pool_size(task) for task in tasks]
    if tasks[0].floors is not None:
        (task,), (target,) = tasks, targets
        return reduce_video_graph(similarity, task, target)
    return reduce_graph(similarity, targets, **tasks[0].params.graph)


def _pool_size(task: Task) -> int:
    """Tokens that GSP leaves: the budget, and a part of all others."""
    return task.budget + math.floor(task.params.pool_ratio * (task.num_tokens - task.budget) + 0.5)


def _context(similarity: Similarity, tasks: Sequence[Task], pool: Pool) -> torch.Tensor:
    """Rows of the pool that show what there is, an eighth of each budget, whatever the question."""
    shares = [task.budget // CONTEXT for task in tasks]
    picks = greedy_map(similarity, None, [max(1, share) for share in shares], pool=pool)
    own = picks.split([max(1, share) for share in shares])
    return torch.cat([rows[:share] for rows, share in zip(own, shares, strict=True)])


def _weigh(
    relevance: torch.Tensor, tasks: Sequence[Task], layout: Layout
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of the rows, and which are the most relevant.

    Returns:
        weight [N] float32: the relevance, in each image with a maximum of 1, and 1 throughout where
        it is constant. And bool [N]: of each image as many rows as its budget, the lowest ones on
        ties, or none where the relevance is constant.
    """
    order = relevance.argsort(descending=True, stable=True)
    order = order[layout.part[order].argsort(stable=True)]  # image after image
    high, low = relevance[order[layout.first]], relevance[order[layout.last]]
    differs = (low < high)[layout.part]
    budgets = to_device(torch.tensor([task.budget for task in tasks]), relevance.device)
    is_top = torch.empty_like(differs).scatter_(0, order, layout.place < budgets[layout.part])
    return torch.where(differs, relevance / high[layout.part], 1.0), is_top & differs


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
