"""Choose the visual tokens of one encoded item: relevance to the query, then the plan's mode.

Knows tensors and plans, not vLLM: what it needs of the model is handed to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..kernels import query_relevance, to_device
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
        candidates = None  # every row of the features, in their order
        if not _is_every_row(layout.candidates, image):
            candidates = to_device(layout.candidates, image.features.device)
        visual_tokens = _rows(image.features[:, : self._hidden_size], candidates)  # [P, D]
        relevance = None
        if plan.relevance == "clip":
            relevance = self._clip_relevance(_rows(image.states, candidates), plan)
        elif plan.relevance == "embedding":
            relevance = self._embedding_relevance(visual_tokens, plan)
        floors = None
        if layout.num_frames > 1:
            floors = frame_floors(budget, layout.num_frames, layout.even)
        kept = run_mode(visual_tokens, budget, relevance, plan.mode, plan.params, floors)
        return Selection(kept if candidates is None else candidates[kept], relevance)

    def _clip_relevance(self, states: torch.Tensor, plan: Plan) -> torch.Tensor:
        """Relevance [P] of the candidates from their states [P, H] in the vision tower."""
        assert self._clip is not None, "a plan with relevance clip names a CLIP that is loaded"
        relevance: torch.Tensor = self._clip(states, plan.query)
        return relevance

    def _embedding_relevance(self, visual_tokens: torch.Tensor, plan: Plan) -> torch.Tensor:
        """Relevance [P] of the candidates from what enters the language model, [P, D]."""
        (query,) = plan.query
        token_ids = to_device(torch.tensor(query), visual_tokens.device)
        return query_relevance(visual_tokens, self._embed(token_ids), polarity=1)


def _is_every_row(candidates: torch.Tensor, image: EncodedImage) -> bool:
    """Whether the candidates are all rows of the features in their order: no copy is needed."""
    num_rows = len(image.features)
    return len(candidates) == num_rows and torch.equal(candidates, torch.arange(num_rows))


def _rows(x: torch.Tensor, candidates: torch.Tensor | None) -> torch.Tensor:
    """The candidates' rows of x, in reading order."""
    return x if candidates is None else x.index_select(0, candidates)
