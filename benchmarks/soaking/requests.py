"""One request: what is sent, when the client goes away, and what must come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHAT, RESPONSES, TOKENIZE = "/v1/chat/completions", "/v1/responses", "/tokenize"


@dataclass(frozen=True)
class Request:
    """What a client does, and what a server that is right answers."""

    kind: str
    """Row of the report that it is counted in."""
    body: dict[str, Any]
    """What is sent, as JSON."""
    path: str = CHAT
    status: int = 200
    """HTTP status that must come back."""
    prompt_tokens: int | None = None
    """What the server must count; None where it refuses."""
    pruned: tuple[tuple[int, int], ...] = ()
    """Visual tokens of every image that is processed to be pruned, without pruning and with it."""
    refusal: str | None = None
    """Reason under which the plugin counts its refusal."""
    cut_after: int | None = None
    """Pieces of a streamed answer after which the client goes away."""
    hang_up: float | None = None
    """Seconds after which the client closes the connection, answered or not."""

    @property
    def generates(self) -> bool:
        """Whether the engine reads the prompt of an accepted request."""
        return self.path != TOKENIZE
