"""The model's part: encode image by image, select the planned rows, return exactly those.

`PrunedModel` goes before a stock model in the bases of a subclass. One image is one micro-batch:
its encoder batch has a shape of its own whatever else is running, so the same image and plan give
the same rows, also when it is encoded again after an eviction. It also bounds the encoder's
memory, for the scheduler's budget counts pruned rows and would let nine times as many tiles in.
"""

from __future__ import annotations

from typing import Any

import torch

from ..compat import input_embeddings
from ..kernels import query_relevance
from ..layout import Layout
from ..plan import Plan
from ..processing import COUNT_FIELD, PLAN_FIELD
from ..pruning import run_mode


class PrunedModel:
    """Mixin that prunes what `embed_multimodal` returns."""

    def encode_image(self, fields: dict[str, Any]) -> tuple[torch.Tensor, Layout]:
        """Features of one image and its layout. Families implement it.

        Args:
            fields: the image's processor output, each value with a leading dimension of 1.

        Returns:
            features [tiles * patches, D], every patch of every tile, and their layout.
        """
        raise NotImplementedError

    def embed_multimodal(self, **kwargs: Any) -> Any:
        plans = kwargs.pop(PLAN_FIELD, None)
        counts = kwargs.pop(COUNT_FIELD, None)
        if plans is None:
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]
        embeddings = []
        for index, (plan, count) in enumerate(zip(plans, counts, strict=True)):
            image = {name: value[index : index + 1] for name, value in kwargs.items()}
            if int(count) == 0:
                embeddings.extend(super().embed_multimodal(**image))  # type: ignore[misc]
            else:
                decoded = Plan.decode(bytes(plan.tolist()))
                embeddings.append(self._embed_pruned(image, decoded, int(count)))
        return embeddings

    def _embed_pruned(self, image: dict[str, Any], plan: Plan, count: int) -> torch.Tensor:
        features, layout = self.encode_image(image)
        kept = self.select(features, layout, plan)
        if len(kept) != count:
            raise RuntimeError(
                f"pruning selected {len(kept)} rows for an image with {count} placeholders"
            )
        return features.index_select(0, kept)  # a copy: a view would pin the unpruned features

    def select(self, features: torch.Tensor, layout: Layout, plan: Plan) -> torch.Tensor:
        """Return the kept rows of `features` as int64 [count], in reading order."""
        budget = plan.num_kept(layout.num_placeholders, layout.num_patches)
        assert budget is not None, "an image with a plan is pruned"
        candidates = layout.candidates.to(features.device)
        visual_tokens = features.index_select(0, candidates)  # [P, D]
        relevance = self._relevance(visual_tokens, plan)
        return candidates[run_mode(visual_tokens, budget, relevance, plan.mode, plan.params)]

    def _relevance(self, visual_tokens: torch.Tensor, plan: Plan) -> torch.Tensor | None:
        if plan.relevance == "none":
            return None
        token_ids = torch.tensor(plan.query_token_ids, device=visual_tokens.device)
        return query_relevance(visual_tokens, input_embeddings(self, token_ids))
