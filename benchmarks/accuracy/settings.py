"""Which prunings are compared: methods times keep ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from vllm_script.config import CONVERSATIONS
from vllm_script.pruning import MODES

RATIOS = (1.0, 0.5, 0.33, 0.22, 0.11, 0.056)
SOURCES = ("clip", "embedding", "lm-attention", "none")
ALONE = "alone"
"""In place of a policy of conversations: the last question is asked without those before it."""
POLICIES = (*CONVERSATIONS, ALONE)


@dataclass(frozen=True)
class Setting:
    """One pruning of one request. Without a mode keep_ratio is 1, and nothing is pruned, or 0, and
    there is no picture."""

    keep_ratio: float
    mode: str | None = None
    relevance: str | None = None
    """Source of relevance, where the mode reads it."""
    conversation: str | None = None
    """One of POLICIES, where the mode reads a query; None: the server's policy."""

    @property
    def is_alone(self) -> bool:
        """Whether the last question is asked without those before it."""
        return self.conversation == ALONE

    @property
    def method(self) -> str:
        """Name of everything but the ratio, such as "script clip", "uniform" or "all tokens"."""
        if self.mode is None:
            alone = " alone" if self.is_alone else ""
            return f"all tokens{alone}" if self.keep_ratio else "no picture"
        return " ".join(filter(None, (self.mode, self.relevance, self.conversation)))

    @property
    def request(self) -> dict[str, Any]:
        """The `script` field of a request."""
        if self == BLIND:
            return {}
        values = asdict(self) | ({"conversation": None} if self.is_alone else {})
        return {name: value for name, value in values.items() if value is not None}

    def __str__(self) -> str:
        return f"{self.method} @ {self.keep_ratio:g}"


WHOLE, BLIND = Setting(1.0), Setting(0.0)
"""All tokens; and the question without the picture, which shows how much can be guessed."""
WHOLE_ALONE = Setting(1.0, conversation=ALONE)
"""All tokens, the last question of a chat asked without those before it."""


def grid(
    ratios: Sequence[float],
    modes: Sequence[str] = tuple(MODES),
    sources: Sequence[str] = SOURCES,
    conversations: Sequence[str | None] = (None,),
) -> list[Setting]:
    """All tokens first, then every method at every ratio below 1."""
    settings = [WHOLE]
    for mode, ratio in product(modes, sorted(set(ratios) - {1.0}, reverse=True)):
        if not MODES[mode].reads_query:
            settings.append(Setting(ratio, mode))
            continue
        for source in sources:
            for conversation in conversations if source != "none" else (None,):
                settings.append(Setting(ratio, mode, source, conversation))
    return settings
