"""What explain shows of a request's images: plan and picture here, the worker's selection later."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from vllm.exceptions import VLLMValidationError

from ..layout import Layout
from ..plan import Plan
from ..relevance.windows import clip_windows


@dataclass(frozen=True)
class ExplainedImage:
    """One image of a request that is explained."""

    picture: Image.Image
    layout: Layout
    plan: Plan | None
    """How it is pruned; None where it is left whole."""
    questions: Sequence[str]
    """The questions that its selection depends on, if it does."""
    source: str
    """Where the questions came from: `conversation`, `request`, `none`."""

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
    """Watches what is done to a request's images: frontend/request.py's `ItemWatcher`."""

    def __init__(self) -> None:
        self.images: list[ExplainedImage] = []

    def mark(self, plan: Plan | None) -> Plan | None:
        """Give a plan a random name: no cache has it, and the worker shows its selection by it."""
        return None if plan is None else replace(plan, explain_id=secrets.token_hex(16))

    def see(
        self,
        picture: Any,
        layout: Layout | None,
        plan: Plan | None,
        questions: Sequence[str],
        source: str,
    ) -> None:
        """Keep an image, in prompt order.

        Raises:
            VLLMValidationError: the image itself was not sent.
        """
        if layout is None:
            raise VLLMValidationError(
                f"image {len(self.images)} cannot be shown: send the picture itself, not its uuid "
                "alone and not image_embeds",
                parameter="messages",
            )
        self.images.append(ExplainedImage(picture, layout, plan, questions, source))
