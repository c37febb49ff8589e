"""What explain shows of an image: its plan and its picture here, the worker's selection later."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

from PIL import Image

from .layout import Layout
from .plan import Plan


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


def with_explain_id(plan: Plan | None) -> Plan | None:
    """The plan under a name of its own: no cache has it, and the worker shows its selection."""
    return plan and replace(plan, explain_id=secrets.token_hex(16))
