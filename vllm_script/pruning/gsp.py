"""GSP, graph-structured pruning: thin out visual tokens that others can stand for.

Each round splits the survivors into src and dst by alternating position and drops the most
redundant src tokens. dst is not touched, so whatever a round drops has a neighbour that the
round keeps: a large wall or sky is thinned and never deleted.

Source: Script (arXiv 2512.01949), with tau 0.2 absolute and gamma 1. The published code scores
all tokens at once and keeps the redundant ones; this is the method, not that code.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from vllm_script.kernels import bipartite_redundancy, greedy_map, unit_rows

if TYPE_CHECKING:
    from . import PruningParams

# Largest part of src that one round may drop. Without a bound, the first round of a reduction to
# half the tokens drops all of src wherever every token has a neighbour, and redundancy, tau and
# gamma have no say: every second token goes. The paper does not state a bound.
MAX_DROP = 0.5

# Bounds the latency of inputs that yield a few tokens a round. At full rate a round leaves three
# quarters of the tokens, so 16 reach one in a hundred.
MAX_ROUNDS = 16

# Above this similarity tokens are duplicates whatever the threshold says. Below 1, because the
# float32 cosine of a row with its copy may be 0.9999999, and that of rounded copies lower.
DUPLICATE_SIMILARITY = 0.999


def gsp(
    visual_tokens: torch.Tensor,
    budget: int,
    relevance: torch.Tensor | None,
    params: PruningParams,
) -> torch.Tensor:
    """Reduce the graph down to the budget; reads no relevance.

    If the graph runs out of edges first, the most diverse of the survivors are kept.
    """
    unit = unit_rows(visual_tokens)
    survivors = reduce_graph(
        unit, budget, tau=params.tau, tau_relative=params.tau_relative, gamma=params.gamma
    )
    if len(survivors) == budget:
        return survivors
    return survivors[greedy_map(unit[survivors], None, budget)].sort().values


def reduce_graph(
    unit: torch.Tensor, target: int, *, tau: float, tau_relative: bool, gamma: float
) -> torch.Tensor:
    """Drop redundant tokens until `target` survive, or until none has an edge.

    Args:
        unit: [N, D] float32, unit rows.
        target: tokens wanted, >= 1.
        tau, tau_relative, gamma: as in PruningParams.

    Returns:
        surviving indices int64, ascending: `target` of them, or more if edges ran out.
    """
    survivors = torch.arange(len(unit), device=unit.device)
    for round_index in range(MAX_ROUNDS):
        if len(survivors) <= target:
            break
        num_before = len(survivors)
        survivors = reduce_once(
            unit,
            survivors,
            target,
            src_parity=round_index % 2,
            tau=tau,
            tau_relative=tau_relative,
            gamma=gamma,
        )
        # An idle round found no edge, and swapped roles would look at the same edges again.
        if len(survivors) == num_before:
            break
    return survivors


def reduce_once(
    unit: torch.Tensor,
    survivors: torch.Tensor,
    target: int,
    *,
    src_parity: int,
    tau: float,
    tau_relative: bool,
    gamma: float,
) -> torch.Tensor:
    """One round: drop up to half of src, most redundant first, lowest index on ties.

    Only tokens with an edge are dropped. src_parity 0 makes the even positions among the
    survivors src, 1 the odd ones.
    """
    src, dst = survivors[src_parity::2], survivors[1 - src_parity :: 2]
    src_rows, dst_rows = unit[src], unit[dst]
    threshold = edge_threshold(src_rows, dst_rows, tau, tau_relative)
    redundancy = bipartite_redundancy(src_rows, dst_rows, threshold, gamma)
    order = redundancy.argsort(descending=True, stable=True)
    # The one wait for the device in a round: this count is the shape of the next graph.
    num_redundant = int((redundancy > 0).sum())
    most = math.ceil(MAX_DROP * len(src))
    num_dropped = min(num_redundant, most, len(survivors) - target)
    return torch.cat([dst, src[order[num_dropped:]]]).sort().values


def edge_threshold(
    src: torch.Tensor, dst: torch.Tensor, tau: float, tau_relative: bool
) -> float | torch.Tensor:
    """Smallest similarity that makes an edge; relative: tau above the mean of src @ dst.T."""
    if not tau_relative:
        return min(tau, DUPLICATE_SIMILARITY)
    mean_similarity = src.mean(0) @ dst.mean(0)
    return (mean_similarity + tau).clamp(max=DUPLICATE_SIMILARITY)
