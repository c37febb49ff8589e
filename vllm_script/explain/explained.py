"""What explain shows of an image: its plan and its picture here, the worker's selection later."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

from PIL import Image

from ..layout import Layout
from ..plan import Plan
from ..relevance.windows import clip_windows


@dataclass(frozen=True)
class ExplainedImage:
    """One image of a request that is explained."""

    picture: Image.Image
    layout: Layout
    plan: Plan | None
    """None where the image is left whole."""
    text: str
    """The text that its selection depends on, "" where it depends on none."""
    source: str
    """Where that text came from: `turn`, `request`, `none`."""

    @property
    def all_read(self) -> bool:
        """Whether all of the text counted; of a very long one CLIP reads the two ends."""
        if self.plan is None or self.plan.clip_model is None:
            return True
        return self.plan.query == tuple(clip_windows(self.plan.clip_model, self.text))


def with_explain_id(plan: Plan | None) -> Plan | None:
    """The plan under a name of its own: no cache has it, and the worker shows its selection."""
    return None if plan is None else replace(plan, explain_id=secrets.token_hex(16))
