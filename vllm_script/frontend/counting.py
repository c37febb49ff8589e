"""Which images and videos go into the metrics: those of every request that are pruned.

How many tokens a video has before pruning is known when it is processed, which one that vLLM's
cache has is not, so it is remembered. Requests are processed in threads, hence the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from cachetools import LRUCache

from ..layout import Layout
from .items import Order
from .metrics import metrics
from .request import ScriptRequest

MAX_VIDEOS = 16384
"""Names and numbers of a few MiB: more than vLLM's cache has videos of a megabyte."""


class ItemCounter:
    """Counts items; remembers videos, the least recently used going first."""

    def __init__(self) -> None:
        self._videos: LRUCache[str, int] = LRUCache(MAX_VIDEOS)
        self._lock = threading.Lock()

    def remember(self, order: Order, layout: Layout) -> None:
        """Keep what a video that is processed has before pruning."""
        with self._lock:
            self._videos[order.identifier] = layout.num_placeholders

    def count(
        self,
        request: ScriptRequest,
        items: Any,
        orders: Sequence[Order],
        spans: Sequence[Any],
        layout_of: Callable[[int], Layout | None],
    ) -> None:
        """Count a request's items of one modality.

        Args:
            spans: vLLM's placeholder ranges of the items.
            layout_of: layout of an item by its place; None of a video.
        """
        for index, (order, span) in enumerate(zip(orders, spans, strict=True)):
            # Of an item that came as its uuid alone the size is not known, so it is left out.
            if order.plan is None or items.get(index) is None:
                continue
            layout, kept = layout_of(index), span.get_num_embeds()
            total = self._known(order) if layout is None else layout.num_placeholders
            if total is not None and kept < total:
                query = request.query_source if order.plan.query else "none"
                metrics().count_item(items.modality, order.plan, query, total, kept)

    def _known(self, order: Order) -> int | None:
        with self._lock:
            return self._videos.get(order.identifier)
