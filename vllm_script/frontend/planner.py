"""From what a request asks of an item to the item's plan.

How many tokens a plan keeps is budget.py's; the server's bound on it (`max_keep_ratio`) is applied
here, where the size of the item is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.multimodal.processing.processor import cached_encode

from ..config import ScriptConfig
from ..layout import Layout
from ..plan import Plan, make_plan, reads_query
from ..relevance.windows import MAX_WINDOWS, clip_windows, first_and_last
from .request import ScriptRequest, refusal


def plan_item(
    request: ScriptRequest, query: Sequence[tuple[int, ...]], layout: Layout | None, name: str
) -> Plan | None:
    """The plan of one item; None to leave it whole.

    Args:
        query: windows of token ids, as `query_windows` returns them.
        layout: None where the item's size is not known: the plan then decides when it is.
        name: of the item, for the message of an error.

    Raises:
        VLLMValidationError: it would keep more than the server allows.
    """
    plan = make_plan(request.settings, query)
    if layout is None:
        return None if plan.keep_ratio == 1 else plan
    most = make_plan(at_most(request.settings), query)
    if num_rows(plan, layout) > num_rows(most, layout):
        if request.asked:
            raise _too_many(name, plan, most, layout)
        plan = most
    return plan if num_rows(plan, layout) < layout.num_placeholders else None


def query_windows(
    request: ScriptRequest, text: str, tokenizer: Any, vocab_size: int
) -> list[tuple[int, ...]]:
    """The query in windows of token ids, for the request's source of relevance.

    Args:
        tokenizer, vocab_size: of the language model.

    Raises:
        VLLMValidationError: the client chose a text that is too long.
    """
    config = request.settings
    if not text or not reads_query(config):
        return []
    if config.relevance == "clip":
        assert config.clip_model is not None
        windows = clip_windows(config.clip_model, text)
        if len(windows) > MAX_WINDOWS and isinstance(request.queries, str):
            raise refusal(
                "query",
                f"query must fit in {MAX_WINDOWS} windows of CLIP's text tower, got "
                f"{len(windows)}; shorten it to what to look for in the image",
            )
        return first_and_last(windows)
    token_ids = cached_encode(tokenizer, text, add_special_tokens=False)
    known = tuple(token_id for token_id in token_ids if token_id < vocab_size)
    return [known] if known else []


def num_rows(plan: Plan, layout: Layout) -> int:
    """Rows of an image that stay, all of them where the plan leaves it whole."""
    kept = plan.num_kept(*layout.counts)
    return layout.num_placeholders if kept is None else kept


def at_most(config: ScriptConfig) -> ScriptConfig:
    """The settings with the largest share that a request may keep."""
    return replace(config, keep_ratio=config.max_keep_ratio, visual_token_budget=None)


def _too_many(name: str, plan: Plan, most: Plan, layout: Layout) -> VLLMValidationError:
    return refusal(
        "max_keep_ratio",
        f"{name} would keep {num_rows(plan, layout)} visual tokens, the server allows "
        f"{num_rows(most, layout)} of its {layout.num_placeholders} (--max-keep-ratio "
        f"{most.keep_ratio:g}); ask for less, or start the server with a larger limit",
    )
