"""Script: QCSP inside the pool of tokens that GSP leaves.

The paper intersects the selections of the two. Choosing inside the pool is that intersection,
with a size that is known beforehand.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from vllm_script.kernels import greedy_map, unit_rows

from .gsp import reduce_graph

if TYPE_CHECKING:
    from . import PruningParams


def script(
    visual_tokens: torch.Tensor,
    budget: int,
    relevance: torch.Tensor | None,
    params: PruningParams,
) -> torch.Tensor:
    """Thin the tokens to a pool, then select in it by relevance and diversity."""
    unit = unit_rows(visual_tokens)
    pool = reduce_graph(
        unit,
        max(budget, math.floor(params.pool_ratio * len(unit) + 0.5)),
        tau=params.tau,
        tau_relative=params.tau_relative,
        gamma=params.gamma,
    )
    pool_relevance = None if relevance is None else relevance[pool]
    return pool[greedy_map(unit[pool], pool_relevance, budget)].sort().values
