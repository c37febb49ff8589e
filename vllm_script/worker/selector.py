"""Choose the visual tokens of one encoded item: relevance to the query, then the plan's mode.

Knows tensors and plans, not vLLM: what it needs of the model is handed to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..kernels import query_relevance
from ..plan import Plan
from ..pruning import run_mode
from ..pruning.frames import frame_floors
from ..relevance.clip import ClipRelevance
from .encoded_image import EncodedImage


@dataclass(frozen=True)
class Selection:
    """The visual tokens of one image or video that stay."""

    kept: torch.Tensor
    """[K] int64: rows of the item's features, which are its patches, ascending."""
    relevance: torch.Tensor | None
    """[P] of the layout's candidates, high = keep; None where the selection reads none."""


class Selector:
    """Chooses the visual tokens of encoded items as their plans say.

    Args:
        hidden_size: D of the language model. What a feature has beyond it is for later layers and
            does not count in the selection.
        embed: returns the language model's input embeddings [L, D] of token ids [L], for relevance
            `embedding`.
        clip: scores the vision tower's states, for relevance `clip`; None where it is not loaded.
    """

    def __init__(
        self,
        hidden_size: int,
        embed: Callable[[torch.Tensor], torch.Tensor],
        clip: ClipRelevance | None,
    ) -> None:
        self._hidden_size = hidden_size
        self._embed = embed
        self._clip = clip

    def select(self, image: EncodedImage, plan: Plan) -> Selection:
        """Choose the rows of `image.features` that stay, as many as the plan says."""
        layout = image.layout
        budget = plan.num_kept(*layout.counts)
        assert budget is not None, "an item with a plan is pruned"
        candidates = to_device(layout.candidates, image.features.device)
        visual_tokens = image.features.index_select(0, candidates)[:, : self._hidden_size]  # [P, D]
        states = image.states.index_select(0, candidates)  # [P, H]
        relevance = self._relevance(visual_tokens, states, plan)
        floors = None
        if layout.num_frames > 1:
            floors = frame_floors(budget, layout.num_frames, layout.even)
        kept = run_mode(visual_tokens, budget, relevance, plan.mode, plan.params, floors)
        return Selection(candidates[kept], relevance)

    def _relevance(
        self, visual_tokens: torch.Tensor, states: torch.Tensor, plan: Plan
    ) -> torch.Tensor | None:
        """Relevance [P] of the candidates; None where the plan reads none."""
        if plan.relevance == "none":
            return None
        if plan.relevance == "clip":
            assert self._clip is not None, "a plan with relevance clip names a CLIP that is loaded"
            relevance: torch.Tensor = self._clip(states, plan.query)
            return relevance
        (query,) = plan.query
        token_ids = to_device(torch.tensor(query), visual_tokens.device)
        return query_relevance(visual_tokens, self._embed(token_ids), polarity=1)


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy x to a device; the host does not wait for the copy."""
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)
