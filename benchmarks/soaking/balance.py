"""Whether the server counted what was sent, to the last image and token.

Of a request whose client hangs up, nobody outside knows how far it got. The plugin counts its image
if the processor had begun with it; vLLM counts its prompt only if the engine read it before the
news came. Those requests are the only ones with a query of their own, each has one image of the
same size and budget, and all their prompts are equally long. So with

    h  images that the plugin counted with query="request", at most the requests hung up on
    r  prompts of such requests that the engine read, at most h

every sum is exact, and needs no guess:

    images      all images      = images of the other requests + h
    tokens in   visual tokens   = those of the other requests + h * an image's
    tokens kept                 = those of the other requests + h * the budget
    prompts     vLLM's tokens   = prompts of the other requests + r * a prompt's, r a whole number

A stream that is cut counts in full: its first piece comes after its prompt was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..scrape import Scrape
from .client import Request
from .ledger import Ledger
from .verdict import Check

CACHES = ("pixels", "features")
"""Our caches: of the API process, and of the worker."""


def balance(before: Scrape, after: Scrape, ledger: Ledger, hang_up: Request) -> list[Check]:
    """All sums; `hang_up`: one of the requests that are hung up on, all of which count alike."""

    def grown(name: str, **labels: str) -> int:
        return round(after.sum(name, **labels) - before.sum(name, **labels))

    ((total, kept),) = hang_up.pruned
    images = grown("script_images_total")
    unsure = grown("script_images_total", query="request")
    prompts = grown("vllm:prompt_tokens_total") - ledger.prompt_tokens
    read, rest = divmod(prompts, hang_up.prompt_tokens or 1)
    pixel_hits, feature_hits = (grown("script_cache_hits_total", cache=c) for c in CACHES)
    pixel_misses, feature_misses = (grown("script_cache_misses_total", cache=c) for c in CACHES)
    reasons = sorted(set(after.by("script_refusals_total", "reason")) | set(ledger.refusals))
    return [
        _between(
            "images of requests hung up on",
            ledger.hang_ups_answered,
            unsure,
            ledger.hang_ups + ledger.resent,
        ),
        _same("images", images, ledger.images + unsure),
        _same("keep ratios observed", grown("script_keep_ratio_count"), images),
        _same(
            "visual tokens before pruning",
            grown("script_visual_tokens_in_total"),
            ledger.tokens_in + unsure * total,
        ),
        _same(
            "visual tokens kept",
            grown("script_visual_tokens_kept_total"),
            ledger.tokens_kept + unsure * kept,
        ),
        Check(
            "prompt tokens that vLLM read",
            rest == 0 and ledger.hang_ups_answered <= read <= unsure,
            f"{ledger.prompt_tokens} + {read} * {hang_up.prompt_tokens} + {rest}",
        ),
        *(
            _same(
                f"refusals, {reason}",
                grown("script_refusals_total", reason=reason),
                ledger.refusals[reason],
            )
            for reason in reasons
        ),
        _same(
            "pixel cache: misses and images preprocessed",
            pixel_misses,
            grown("script_preprocess_seconds_count"),
        ),
        _between(
            "pixel cache: lookups, for images that vLLM's cache did not have",
            0,
            pixel_hits + pixel_misses,
            images - grown("vllm:mm_cache_hits_total"),
        ),
        _same(
            "feature cache: hits and misses, and images selected from",
            feature_hits + feature_misses,
            grown("script_selection_seconds_count"),
        ),
        _same(
            "feature cache: misses and images encoded",
            feature_misses,
            grown("script_encoder_seconds_count"),
        ),
        _between("both caches: hits", 1, min(pixel_hits, feature_hits), images),
    ]


def idle(after: Scrape) -> Check:
    """Nothing is left in the engine."""
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    left = {name: after.sum(f"vllm:{name}") for name in names}
    return Check("nothing is left in the engine", not any(left.values()), str(left))


def caches_filled(looks: Sequence[Mapping[str, int]], capacity: int) -> list[Check]:
    """Both caches reached their size and went no further, so that images were evicted.

    Args:
        looks: bytes in each cache by its name, over time; a reload of the weights empties one.
        capacity: of each in bytes; one more image may not fit in the last quarter.
    """
    return [
        _between(
            f"most bytes in the cache of {cache}",
            capacity * 3 // 4,
            max(look.get(cache, 0) for look in looks),
            capacity,
        )
        for cache in CACHES
    ]


def _same(name: str, counted: int, expected: int) -> Check:
    return Check(name, counted == expected, f"{counted}, expected {expected}")


def _between(name: str, low: int, counted: int, high: int) -> Check:
    return Check(name, low <= counted <= high, f"{counted}, in [{low}, {high}]")
