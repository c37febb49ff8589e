"""Choose the visual tokens of encoded items: relevance to each query, then the modes of the plans.

Knows tensors and plans, not vLLM: what it needs of the model is handed to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..kernels import Backend, largest_relevance, query_relevance, to_device
from ..plan import Plan, Query
from ..pruning import run_modes
from ..pruning.frames import frame_floors
from ..pruning.task import Task
from ..relevance.clip import ClipRelevance
from ..relevance.lm_attention import LmAttention
from .encoded_image import EncodedImage


@dataclass(frozen=True)
class Selection:
    """The visual tokens of one image or video that stay."""

    kept: torch.Tensor
    """[K] int64: patches of the item, as `Layout.rows` numbers them, ascending where those are."""
    relevance: torch.Tensor | None
    """[P] of the candidates, high = keep; None where the selection reads none."""
    candidates: torch.Tensor | None = None
    """[P] int64: patches that a thinned vision tower has left to choose from, in reading order;
    None: the layout's."""

    def check(self, count: int) -> None:
        """Raise RuntimeError unless it has as many rows as there are placeholders for it."""
        if len(self.kept) != count:
            raise RuntimeError(
                f"pruning selected {len(self.kept)} rows for an image with {count} placeholders"
            )


class Selector:
    """Chooses the visual tokens of encoded items as their plans say.

    Args:
        hidden_size: D of the language model. What a feature has beyond it is for later layers and
            does not count in the selection.
        embed: returns the language model's input embeddings [L, D] of token ids [L], for relevance
            `embedding` and `lm-attention`.
        clip: scores the vision tower's states, for relevance `clip`; None where it is not loaded.
        backend: of the operations of kernels/.
        lm_attention: scores visual tokens, for relevance `lm-attention`; None where no request can
            ask for it.
    """

    def __init__(
        self,
        hidden_size: int,
        embed: Callable[[torch.Tensor], torch.Tensor],
        clip: ClipRelevance | None,
        backend: Backend = "auto",
        lm_attention: LmAttention | None = None,
    ) -> None:
        self._hidden_size = hidden_size
        self._embed = embed
        self._clip = clip
        self._backend = backend
        self._lm_attention = lm_attention

    def select(self, images: Sequence[EncodedImage], plans: Sequence[Plan]) -> list[Selection]:
        """Choose the rows of each image's features that stay, as many as its plan says.

        What is chosen of one image is the same whatever the others are.
        """
        candidates = [_candidates(image) for image in images]
        tasks = list(map(self._task, images, plans, candidates))
        return [
            Selection(
                kept if patches is None else patches[kept],
                task.relevance,
                None if image.survivors is None else patches,
            )
            for image, kept, patches, task in zip(
                images, run_modes(tasks), candidates, tasks, strict=True
            )
        ]

    def _task(self, image: EncodedImage, plan: Plan, patches: torch.Tensor | None) -> Task:
        """What the plan's mode is asked of one image.

        Args:
            patches: those that can be kept, as `_candidates` returns them.
        """
        layout = image.layout
        budget = plan.num_kept(*layout.counts)
        assert budget is not None, "an item with a plan is pruned"
        candidates = None if patches is None else image.rows_of(patches)
        visual_tokens = _rows(image.features[:, : self._hidden_size], candidates)  # [P, D]
        relevance = None
        if plan.relevance == "clip":
            relevance = self._clip_relevance(_rows(image.states, candidates), plan.query)
        elif plan.relevance == "embedding":
            relevance = self._embedding_relevance(visual_tokens, plan.query)
        elif plan.relevance == "lm-attention":
            assert self._lm_attention is not None, "no plan asks for what the server has not"
            embeds = self._embeds(plan.query, visual_tokens.device)
            relevance = self._lm_attention(visual_tokens, embeds)
        floors = None
        if layout.num_frames > 1:
            floors = frame_floors(budget, layout.num_frames, layout.even)
        return Task(visual_tokens, budget, relevance, plan.mode, plan.params, floors, self._backend)

    def _clip_relevance(self, states: torch.Tensor, query: Query) -> torch.Tensor:
        """Relevance [P] of the candidates from their states [P, H] in the vision tower."""
        assert self._clip is not None, "a plan with relevance clip names a CLIP that is loaded"
        return self._clip(states, query)  # type: ignore[no-any-return]

    def _embedding_relevance(self, visual_tokens: torch.Tensor, query: Query) -> torch.Tensor:
        """Relevance [P] of the candidates from what enters the language model, [P, D]."""
        return largest_relevance(
            [
                query_relevance(visual_tokens, embeds, 1, backend=self._backend)
                for embeds in self._embeds(query, visual_tokens.device)
            ]
        )

    def _embeds(self, query: Query, device: torch.device) -> list[torch.Tensor]:
        """The language model's input embeddings [L, D] of each question."""
        return [self._embed(to_device(torch.tensor(ids), device)) for (ids,) in query]


def _candidates(image: EncodedImage) -> torch.Tensor | None:
    """Patches that can be kept, on the features' device, in reading order.

    None where they are the rows of the features in their order: no copy is needed.
    """
    own, num_features = image.layout.candidates, len(image.features)
    is_whole = image.survivors is None and len(own) == num_features
    if is_whole and torch.equal(own, torch.arange(num_features)):
        return None
    return image.candidates


def _rows(x: torch.Tensor, candidates: torch.Tensor | None) -> torch.Tensor:
    """These rows of x, in reading order; None: all of them."""
    return x if candidates is None else x.index_select(0, candidates)
