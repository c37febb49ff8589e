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
from ..plan import Plan, Query, make_plan, reads_query
from ..relevance.windows import MAX_WINDOWS, clip_windows, first_and_last
from .request import ScriptRequest, refusal


def plan_item(
    request: ScriptRequest, query: Query, layout: Layout | None, name: str
) -> Plan | None:
    """The plan of one item; None to leave it whole.

    Args:
        query: as `query_windows` returns it.
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
    request: ScriptRequest, questions: Sequence[str], tokenizer: Any, vocab_size: int
) -> Query:
    """The questions in windows of token ids, for the request's source of relevance.

    Args:
        questions: none of them empty.
        tokenizer, vocab_size: of the language model.

    Raises:
        VLLMValidationError: the client chose a text that is too long.
    """
    config = request.settings
    if not reads_query(config):
        return ()
    if config.relevance == "clip":
        found = [_clip_windows(request, text) for text in questions]
    else:
        found = [_token_ids(text, tokenizer, vocab_size) for text in questions]
    return tuple(filter(None, found))


def _clip_windows(request: ScriptRequest, text: str) -> tuple[tuple[int, ...], ...]:
    """A question as CLIP reads it; none where CLIP knows nothing of it."""
    assert request.settings.clip_model is not None
    windows = clip_windows(request.settings.clip_model, text)
    if len(windows) > MAX_WINDOWS and isinstance(request.queries, str):
        raise refusal(
            "query",
            f"query must fit in {MAX_WINDOWS} windows of CLIP's text tower, got "
            f"{len(windows)}; shorten it to what to look for in the image",
        )
    return tuple(first_and_last(windows))


def _token_ids(text: str, tokenizer: Any, vocab_size: int) -> tuple[tuple[int, ...], ...]:
    """A question in one window of the language model's tokens; none where it knows no token."""
    token_ids = cached_encode(tokenizer, text, add_special_tokens=False)
    known = tuple(token_id for token_id in token_ids if token_id < vocab_size)
    return (known,) if known else ()


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
