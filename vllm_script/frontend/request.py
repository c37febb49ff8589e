"""What is asked of one request's images and videos, on its way from renderer to processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import ScriptConfig
from ..explain.explained import ExplainedImage

REQUEST_KEY = "script"
"""Key of what a request asks: in `chat_template_kwargs` the client's value or an `Inquiry`, in
`mm_processor_kwargs` a `ScriptRequest` from the renderer to the processor."""


@dataclass(frozen=True)
class Inquiry:
    """What our own routes ask beyond what a client can: JSON has no such objects."""

    overrides: Any
    """The `script` field of the request."""

    explained: list[ExplainedImage] | None = None
    """A list to be filled with the request's images, None where nobody asked to see them."""


@dataclass(frozen=True)
class ScriptRequest:
    """What the renderer knows about a request's pruning."""

    config: ScriptConfig
    """Settings in force for the request."""

    queries: Mapping[str, Sequence[str]] | str
    """Conditioning text of each item in prompt order by modality, or one text that the client
    chose."""

    asked: bool = False
    """Whether the client itself asked for pruning, rather than the server's settings."""

    counted: bool = True
    """Whether it appears in the metrics; the dummies of memory profiling do not."""

    explained: list[ExplainedImage] | None = None
    """See `Inquiry`."""

    @property
    def query_source(self) -> str:
        """Where its conditioning texts come from: `request` or `turn`."""
        return "request" if isinstance(self.queries, str) else "turn"

    def queries_of(self, modality: str, num_items: int) -> Sequence[str]:
        """Conditioning texts of the items of one modality."""
        if isinstance(self.queries, str):
            return [self.queries] * num_items
        return self.queries[modality]
