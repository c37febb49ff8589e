"""Prometheus metrics of the API process, on vLLM's own /metrics. README, "Metrics", lists them.

They exist from the first use on, which is only where pruning was asked for. Where there are several
API servers, each has its own and prometheus_client adds them up, as it does for vLLM's.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from ..plan import Plan

_SECONDS = tuple(
    scale * step for scale in (1e-4, 1e-3, 1e-2, 1e-1, 1.0) for step in (1.0, 2.5, 5.0)
)
_DISTANCES = (0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
_RATIOS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class ScriptMetrics:
    """All metrics; made once in a process, by `metrics`."""

    def __init__(self) -> None:
        self.items = {
            modality: Counter(
                f"script_{modality}s",
                f"{modality.title()}s of requests that were pruned. query: where the text that "
                "conditions the selection came from (turn, request, none).",
                ["mode", "relevance", "query"],
            )
            for modality in ("image", "video")
        }
        self.tokens_in = Counter(
            "script_visual_tokens_in", "Visual tokens of those images and videos before pruning."
        )
        self.tokens_kept = Counter(
            "script_visual_tokens_kept", "Visual tokens that were kept of them."
        )
        self.keep_ratio = Histogram(
            "script_keep_ratio", "Kept part of each image or video, as used.", buckets=_RATIOS
        )
        self.refusals = Counter(
            "script_refusals", "Requests refused because of what they asked of Script.", ["reason"]
        )
        self.preprocess_seconds = Histogram(
            "script_preprocess_seconds",
            "Time in the Hugging Face processor, one observation for each image or video that was "
            "not known.",
            buckets=_SECONDS,
        )
        self.worker_seconds = {
            "encoder": Histogram(
                "script_encoder_seconds",
                "Time in vision tower and projector, one observation for each image or video "
                "encoded.",
                buckets=_SECONDS,
            ),
            "selection": Histogram(
                "script_selection_seconds",
                "Time to choose and gather the kept tokens, one observation for each image or "
                "video.",
                buckets=_SECONDS,
            ),
        }
        self.cache_hits = Counter(
            "script_cache_hits",
            "Images and videos that were known. cache: pixels or features.",
            ["cache"],
        )
        self.cache_misses = Counter("script_cache_misses", "Those that were not.", ["cache"])
        self.cache_bytes = Gauge(
            "script_cache_bytes", "Memory in use.", ["cache"], multiprocess_mode="mostrecent"
        )

        self.shadow_requests = Counter(
            "script_shadow_requests",
            "Requests picked for shadow mode. outcome: compared, dropped (another one was being "
            "compared), failed.",
            ["outcome"],
        )
        self.shadow_agreements = Counter(
            "script_shadow_agreements", "Compared requests whose likeliest first token is the same."
        )
        self.shadow_distance = Histogram(
            "script_shadow_distance",
            "Total variation distance between first tokens, unpruned and pruned.",
            buckets=_DISTANCES,
        )

    def count_shadow(self, agree: bool, distance: float) -> None:
        """Count a request compared in shadow mode; `distance` in [0, 1]."""
        self.shadow_requests.labels("compared").inc()
        self.shadow_agreements.inc(agree)
        self.shadow_distance.observe(distance)

    def count_item(self, modality: str, plan: Plan, query: str, total: int, kept: int) -> None:
        """Count an image or video of `total` visual tokens that is pruned to `kept`.

        Args:
            query: where the text came from that conditions it.
        """
        self.items[modality].labels(plan.mode, plan.relevance, query).inc()
        self.tokens_in.inc(total)
        self.tokens_kept.inc(kept)
        self.keep_ratio.observe(kept / total)

    def add_worker_observations(self, observed: dict[str, Any]) -> None:
        """Add what `PrunedModel.take_observations` returned."""
        for name, seconds in observed["seconds"].items():
            for value in seconds:
                self.worker_seconds[name].observe(value)
        self.cache_hits.labels("features").inc(observed["cache_hits"])
        self.cache_misses.labels("features").inc(observed["cache_misses"])
        self.cache_bytes.labels("features").set(observed["cache_bytes"])


@cache
def metrics() -> ScriptMetrics:
    """The metrics of this process."""
    return ScriptMetrics()
