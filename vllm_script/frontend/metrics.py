"""Prometheus metrics of the API process, on vLLM's own /metrics, and which items are counted.

The metrics exist from the first use on, which is only where pruning was asked for. Where there are
several API servers, each has its own and prometheus_client adds them up, as it does for vLLM's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from cachetools import LRUCache
from prometheus_client import Counter, Gauge, Histogram

from ..layout import Layout
from ..plan import Plan
from ..vllm_types import Items, PlaceholderRange
from .items import PlannedItem

MAX_ITEMS = 16384
"""Items whose size is remembered: a few MiB of names and numbers, and more than vLLM's processor
cache holds of items of a quarter of a megabyte."""

_SECONDS = tuple(
    scale * step for scale in (1e-4, 1e-3, 1e-2, 1e-1, 1.0) for step in (1.0, 2.5, 5.0)
)
_DISTANCES = (0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
_RATIOS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class ScriptMetrics:
    """All Prometheus metrics of this process, which `metrics` makes once."""

    def __init__(self) -> None:
        self.items = {
            modality: Counter(
                f"script_{modality}s",
                f"{modality.title()}s that were pruned, by mode, source of relevance, and "
                "source of the text that conditions the selection (query: conversation, request or "
                "none).",
                ["mode", "relevance", "query"],
            )
            for modality in ("image", "video")
        }
        self.tokens_in = Counter(
            "script_visual_tokens_in",
            "Visual tokens that the pruned images and videos had before pruning.",
        )
        self.tokens_kept = Counter(
            "script_visual_tokens_kept",
            "Visual tokens that were kept of the pruned images and videos.",
        )
        self.tower_dropped = Counter(
            "script_tower_tokens_dropped",
            "Visual tokens that a thinned vision tower (--script-tower-keep) dropped after an "
            "early layer, of the images and videos that it encoded.",
        )
        self.keep_ratio = Histogram(
            "script_keep_ratio",
            "Part of its visual tokens that each pruned image or video kept.",
            buckets=_RATIOS,
        )
        self.refusals = Counter(
            "script_refusals",
            "Requests refused with HTTP 400 for what their script field asks, by the key at fault "
            "(unknown: a key that is none; image_embeds: embeddings that were to be pruned).",
            ["reason"],
        )
        self.preprocess_seconds = Histogram(
            "script_preprocess_seconds",
            "Seconds that the Hugging Face processor took for each image or video that was not in "
            "the cache of preprocessed pixels.",
            buckets=_SECONDS,
        )
        self.worker_seconds = {
            "encoder": Histogram(
                "script_encoder_seconds",
                "Seconds that the vision tower and projector took for each image or video that "
                "was encoded.",
                buckets=_SECONDS,
            ),
            "selection": Histogram(
                "script_selection_seconds",
                "Seconds that it took to choose and gather the kept tokens of each image or video; "
                "those that are selected from together share the time equally.",
                buckets=_SECONDS,
            ),
        }
        self.cache_hits = Counter(
            "script_cache_hits",
            "Images and videos that were found in a cache of items before pruning (cache: pixels "
            "in the API process, features in the workers).",
            ["cache"],
        )
        self.cache_misses = Counter(
            "script_cache_misses",
            "Images and videos that were looked up in a cache of items before pruning and not "
            "found (cache: pixels in the API process, features in the workers).",
            ["cache"],
        )
        self.cache_bytes = Gauge(
            "script_cache_bytes",
            "Bytes in use by a cache of items before pruning (cache: pixels in the API process "
            "that was asked last, features in one worker of each data-parallel engine, together).",
            ["cache"],
            multiprocess_mode="mostrecent",
        )
        self.shadow_requests = Counter(
            "script_shadow_requests",
            "Requests picked for shadow mode, by outcome: compared, dropped because another one "
            "was being compared, or failed.",
            ["outcome"],
        )
        self.shadow_agreements = Counter(
            "script_shadow_agreements",
            "Requests compared in shadow mode whose likeliest first token is the same pruned and "
            "unpruned.",
        )
        self.shadow_distance = Histogram(
            "script_shadow_distance",
            "Total variation distance between the first-token distributions, unpruned and pruned, "
            "of each request compared in shadow mode (0: equal, 1: disjoint).",
            buckets=_DISTANCES,
        )

    def all(self) -> list[Counter | Gauge | Histogram]:
        """Return every metric, in the order in which they are made."""
        groups = (v.values() if isinstance(v, dict) else [v] for v in vars(self).values())
        return [metric for group in groups for metric in group]

    def count_shadow(self, agree: bool, distance: float) -> None:
        """Count a request compared in shadow mode; `distance` in [0, 1]."""
        self.shadow_requests.labels("compared").inc()
        self.shadow_agreements.inc(agree)
        self.shadow_distance.observe(distance)

    def count_item(self, modality: str, plan: Plan, query: str, total: int, kept: int) -> None:
        """Count an image or video of `total` visual tokens that is pruned to `kept`.

        Args:
            query: where its conditioning text came from: `conversation`, `request`, `none`.
        """
        self.items[modality].labels(plan.mode, plan.relevance, query).inc()
        self.tokens_in.inc(total)
        self.tokens_kept.inc(kept)
        self.keep_ratio.observe(kept / total)

    def add_worker_observations(self, engines: Sequence[dict[str, Any]]) -> None:
        """Add what `PrunedModel.take_observations` returned in each data-parallel engine."""
        for observed in engines:
            for name, seconds in observed["seconds"].items():
                for value in seconds:
                    self.worker_seconds[name].observe(value)
            self.cache_hits.labels("features").inc(observed["cache_hits"])
            self.cache_misses.labels("features").inc(observed["cache_misses"])
            self.tower_dropped.inc(observed["tower_dropped"])
        in_use = sum(observed["cache_bytes"] for observed in engines)
        self.cache_bytes.labels("features").set(in_use)


_making = threading.Lock()


def metrics() -> ScriptMetrics:
    """Return the metrics of this process, the same to every thread."""
    with _making:
        return _made()


@cache
def _made() -> ScriptMetrics:
    return ScriptMetrics()


class ItemCounter:
    """Counts the pruned items of every request, also those that vLLM's cache has processed before.

    How many tokens an item has before pruning is known when it is processed. Of one that vLLM's
    cache has it may not be, so it is remembered here, the least recently used going first. Requests
    are processed in threads, hence the lock.
    """

    def __init__(self) -> None:
        self._totals: LRUCache[str, int] = LRUCache(MAX_ITEMS)
        self._lock = threading.Lock()

    def remember(self, item: PlannedItem, layout: Layout) -> None:
        """Remember how many visual tokens an item has before pruning."""
        with self._lock:
            self._totals[item.identifier] = layout.num_placeholders

    def count(
        self,
        items: Items,
        planned: Sequence[PlannedItem],
        spans: Sequence[PlaceholderRange],
        layout_of: Callable[[int], Layout | None],
        query_source: str,
    ) -> None:
        """Count a request's items of one modality.

        Args:
            spans: where the items stand in the prompt.
            layout_of: returns the layout of an item by its index; None of a video.
            query_source: where the request's conditioning texts come from: `conversation` or
                `request`.
        """
        for index, (item, span) in enumerate(zip(planned, spans, strict=True)):
            # An item that came as its uuid alone has no known size, so it is left out.
            if item.plan is None or items.get(index) is None:
                continue
            layout, kept = layout_of(index), span.get_num_embeds()
            total = self.known(item) if layout is None else layout.num_placeholders
            if total is not None and kept < total:
                query = query_source if item.plan.query else "none"
                metrics().count_item(items.modality, item.plan, query, total, kept)

    def known(self, item: PlannedItem) -> int | None:
        """How many visual tokens an item has before pruning; None where that is forgotten."""
        with self._lock:
            return self._totals.get(item.identifier)
