"""For models whose largest item vLLM states as a number, without a dummy.

The number is stock's. Where the server bounds what is kept, or how large an item may be, a dummy
that is pruned tells more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..config import ScriptConfig
from ..patches.probing import Probes


class CountedInfo:
    """Goes before a stock info, which vLLM asks how many tokens an item has at most."""

    probes: ClassVar[Probes] = {"get_mm_max_tokens_per_item": ("seq_len", "mm_counts")}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Any:
        """Return stock's answer; or None, which makes vLLM count in its dummies.

        Where the server bounds keep ratios, no item is left whole, and stock's answer is too large.
        Where it bounds the size of items, the dummies have that size.
        """
        config = ScriptConfig.of(self.ctx.model_config)  # type: ignore[attr-defined]
        if config.max_keep_ratio < 1 or config.max_item_tokens is not None:
            return None
        return super().get_mm_max_tokens_per_item(seq_len, mm_counts)  # type: ignore[misc]
