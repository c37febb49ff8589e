"""QCSP, query-conditioned semantic pruning: the relevant tokens that differ from each other.

Alone it is the method of CDPruner (Theia-4869/CDPruner@9541616), and picks the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from vllm_script.kernels import greedy_map

if TYPE_CHECKING:
    from . import PruningParams


def cdpruner(
    visual_tokens: torch.Tensor,
    budget: int,
    relevance: torch.Tensor | None,
    params: PruningParams,
    floors: Sequence[int] | None = None,
) -> torch.Tensor:
    """Select among all tokens by relevance and diversity; reads no parameter."""
    return greedy_map(visual_tokens, relevance, budget, floors=floors).sort().values
