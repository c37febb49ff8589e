"""Script: QCSP inside the pool of tokens that GSP leaves.

The paper intersects the selections of the two. Choosing inside the pool is that intersection,
with a size that is known beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from vllm_script.kernels import greedy_map, inverse_norms

from .gsp import thin_out

if TYPE_CHECKING:
    from . import PruningParams


def script(
    visual_tokens: torch.Tensor,
    budget: int,
    relevance: torch.Tensor | None,
    params: PruningParams,
    floors: Sequence[int] | None = None,
) -> torch.Tensor:
    """Thin the tokens to a pool, then select in it by relevance and diversity."""
    inverse_norm = inverse_norms(visual_tokens)
    target = max(budget, math.floor(params.pool_ratio * len(visual_tokens) + 0.5))
    pool = thin_out(visual_tokens, target, params, floors, inverse_norm)
    picks = greedy_map(
        visual_tokens, relevance, budget, pool=pool, floors=floors, inverse_norm=inverse_norm
    )
    return picks.sort().values
