"""Script: QCSP inside the pool of tokens that GSP leaves.

The paper intersects the selections of the two. Choosing inside the pool is that intersection,
with a size that is known beforehand.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from vllm_script.kernels import greedy_map, inverse_norms, reduce_graph

if TYPE_CHECKING:
    from . import PruningParams


def script(
    visual_tokens: torch.Tensor,
    budget: int,
    relevance: torch.Tensor | None,
    params: PruningParams,
) -> torch.Tensor:
    """Thin the tokens to a pool, then select in it by relevance and diversity."""
    inverse_norm = inverse_norms(visual_tokens)
    pool = reduce_graph(
        visual_tokens,
        max(budget, math.floor(params.pool_ratio * len(visual_tokens) + 0.5)),
        tau=params.tau,
        tau_relative=params.tau_relative,
        gamma=params.gamma,
        inverse_norm=inverse_norm,
    )
    picks = greedy_map(visual_tokens, relevance, budget, pool=pool, inverse_norm=inverse_norm)
    return picks.sort().values
