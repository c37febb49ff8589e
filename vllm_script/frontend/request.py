"""What one request wants of its images and videos, and what it is told where that cannot be had.

A `ScriptRequest` is filled in two steps, since the text of the messages is known before the
settings of the request are: `render_messages` of the renderer notes the conditioning texts,
`_process_tokens` the settings in force. In between it lies beside the prompt; then it goes to the
processor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vllm.exceptions import VLLMValidationError

from ..config import ScriptConfig
from ..layout import Layout
from ..plan import Plan
from .metrics import metrics
from .queries import conditioning

REQUEST_KEY = "script"
"""Key of what a request asks for: in `chat_template_kwargs` the client's value or a `ScriptRequest`
of one of our own routes, in `mm_processor_kwargs` the client's value (offline), or the
`ScriptRequest` that the renderer made."""


class ItemWatcher(Protocol):
    """Somebody who wants to see what is done to a request's items; explain/ has one."""

    def mark(self, plan: Plan | None) -> Plan | None:
        """Return the plan to carry out instead, so that its selection can be found again."""

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
        """Take note of an item, in prompt order among those of its modality.

        Args:
            modality: `image` or `video`.
            content: the decoded image, or frames as vLLM has them; None of what came as its uuid
                alone.
            layout: None where the image's size is not known, and of a video that is left whole.
            plan: how it is pruned; None where it is left whole.
            questions: what its selection is conditioned on; none where it is on nothing.
            source: where these came from: `conversation`, `request`, `none`.
            num_tokens: of the prompt, that the item has after pruning.
        """


@dataclass(frozen=True)
class ScriptRequest:
    """What one request asks of Script."""

    overrides: Any = None
    """The request's `script` field as the client sent it; None where there is none."""

    accepted: Callable[[], None] | None = None
    """Called once `overrides` are found to be right; None where nobody waits for that."""

    queries: Mapping[str, Sequence[Sequence[str]]] | str = field(default_factory=dict)
    """Questions of each item in prompt order, by modality, as `item_queries` returns them; or one
    text for all items, that the client chose."""

    num_placeholders: Mapping[str, int] = field(default_factory=dict)
    """How many items the prompt has places for, by modality, as it came."""

    config: ScriptConfig | None = None
    """Settings in force, the server's with the request's overrides; None until they are merged."""

    counted: bool = True
    """Whether its items appear in the metrics; the dummies of memory profiling do not."""

    encoder_cache_size: int = 0
    """Visual tokens that fit vLLM's encoder cache whatever the model: stock refuses larger items
    than both this and what it profiles."""

    watcher: ItemWatcher | None = None
    """Who is shown what is done to its items; None where nobody asked to see it."""

    @property
    def settings(self) -> ScriptConfig:
        """The settings in force."""
        assert self.config is not None, "the renderer merges the settings of a request"
        return self.config

    @property
    def asked(self) -> bool:
        """Whether the client itself asked for pruning, rather than the server's settings."""
        return bool(self.overrides)

    @property
    def query_source(self) -> str:
        """Where the request's conditioning texts come from: `request` or `conversation`."""
        return "request" if isinstance(self.queries, str) else "conversation"

    def queries_of(self, modality: str, num_items: int) -> Sequence[tuple[str, ...]]:
        """Return the questions that condition each item of one modality."""
        if isinstance(self.queries, str):
            return [(self.queries,) if self.queries else ()] * num_items
        return [conditioning(each, self.settings.conversation) for each in self.queries[modality]]


def refusal(reason: str, message: str) -> VLLMValidationError:
    """Return the error to raise, an HTTP 400.

    Args:
        reason: the setting at fault, a few words; refusals are counted by it.
        message: what is wrong, the limit, and what to do.
    """
    metrics().refusals.labels(reason).inc()
    return VLLMValidationError(message, parameter="script")
