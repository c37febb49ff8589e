"""What explain shows of a request's items: plan and content here, the worker's selection later."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vllm.exceptions import VLLMValidationError

from ..layout import Layout
from ..plan import Plan
from ..relevance.windows import clip_windows


@dataclass(frozen=True)
class ExplainedItem:
    """One image or video of a request that is explained."""

    modality: str
    """`image` or `video`."""
    content: Any
    """The decoded image, a PIL image; or the frames of a video as vLLM has them."""
    layout: Layout | None
    """None of a video that is left whole: it is not taken apart."""
    plan: Plan | None
    """How it is pruned; None where it is left whole."""
    questions: Sequence[str]
    """The questions that its selection depends on, if it does."""
    source: str
    """Where the questions came from: `conversation`, `request`, `none`."""
    num_tokens: int
    """Visual tokens of the prompt, after pruning."""

    @property
    def num_visual_tokens(self) -> int:
        """Visual tokens before pruning."""
        return self.num_tokens if self.layout is None else self.layout.num_placeholders

    def all_read(self, clip_model: str | None) -> bool:
        """Whether all of the text counted; of a very long one CLIP reads the two ends.

        Args:
            clip_model: the CLIP checkpoint in the settings of the server.
        """
        if self.plan is None or self.plan.relevance != "clip":
            return True
        assert clip_model is not None, "a plan with relevance clip has a CLIP"
        return self.plan.query == tuple(
            tuple(clip_windows(clip_model, question)) for question in self.questions
        )


class Explanation:
    """Watches what is done to a request's items: frontend/request.py's `ItemWatcher`."""

    def __init__(self) -> None:
        self.items: list[ExplainedItem] = []

    def of(self, modality: str) -> list[ExplainedItem]:
        """Return the items of one modality, in prompt order."""
        return [item for item in self.items if item.modality == modality]

    def mark(self, plan: Plan | None) -> Plan | None:
        """Give a plan a random name: no cache has it, and the worker shows its selection by it."""
        return None if plan is None else replace(plan, explain_id=secrets.token_hex(16))

    def see(
        self,
        modality: str,
        content: Any,
        layout: Layout | None,
        plan: Plan | None,
        questions: Sequence[str],
        source: str,
        num_tokens: int,
    ) -> None:
        """Keep an item, in prompt order.

        Raises:
            VLLMValidationError: the item itself was not sent.
        """
        item = ExplainedItem(modality, content, layout, plan, questions, source, num_tokens)
        if content is None or (modality == "image" and layout is None):
            raise VLLMValidationError(
                f"{modality} {len(self.of(modality))} cannot be shown: send the {modality} itself, "
                f"not its uuid alone and not {modality}_embeds",
                parameter="messages",
            )
        self.items.append(item)
