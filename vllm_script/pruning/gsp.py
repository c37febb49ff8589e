"""GSP alone: thin out visual tokens that others can stand for, down to the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vllm_script.kernels import greedy_map, inverse_norms, reduce_graph

if TYPE_CHECKING:
    from . import PruningParams


def gsp(
    visual_tokens: torch.Tensor,
    budget: int,
    relevance: torch.Tensor | None,
    params: PruningParams,
) -> torch.Tensor:
    """Reduce the graph down to the budget; reads no relevance.

    If the graph runs out of edges first, the most diverse of the survivors are kept.
    """
    inverse_norm = inverse_norms(visual_tokens)
    survivors = reduce_graph(
        visual_tokens,
        budget,
        tau=params.tau,
        tau_relative=params.tau_relative,
        gamma=params.gamma,
        inverse_norm=inverse_norm,
    )
    picks = greedy_map(visual_tokens, None, budget, pool=survivors, inverse_norm=inverse_norm)
    return picks.sort().values
