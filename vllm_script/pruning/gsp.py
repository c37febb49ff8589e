"""GSP alone: thin out visual tokens that others can stand for, down to the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from vllm_script.kernels import Pool, greedy_map, inverse_norms, reduce_graph

from .frames import reduce_video_graph

if TYPE_CHECKING:
    from . import PruningParams


def gsp(
    visual_tokens: torch.Tensor,
    budget: int,
    relevance: torch.Tensor | None,
    params: PruningParams,
    floors: Sequence[int] | None = None,
) -> torch.Tensor:
    """Reduce the graph down to the budget; reads no relevance.

    If the graph runs out of edges first, the most diverse of the survivors are kept.
    """
    inverse_norm = inverse_norms(visual_tokens)
    pool = thin_out(visual_tokens, budget, params, floors, inverse_norm)
    picks = greedy_map(
        visual_tokens, None, budget, pool=pool, floors=floors, inverse_norm=inverse_norm
    )
    return picks.sort().values


def thin_out(
    visual_tokens: torch.Tensor,
    target: int,
    params: PruningParams,
    floors: Sequence[int] | None,
    inverse_norm: torch.Tensor,
) -> Pool:
    """What is left of an image or, where there are floors, of a video; at least `target`."""
    if floors is not None:
        return reduce_video_graph(visual_tokens, target, floors, params, inverse_norm)
    return reduce_graph(
        visual_tokens,
        target,
        tau=params.tau,
        tau_relative=params.tau_relative,
        gamma=params.gamma,
        inverse_norm=inverse_norm,
    )
