"""POST /v1/script/explain: what a chat request's images and videos keep, and for which text.

The request is rendered as any other and runs for one token, with identifiers that nothing shares,
so every item is selected anew; the workers then hand over what they selected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.entrypoints.serve.utils.api_utils import validate_json_request, with_cancellation
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams

from vllm_script.explain.explained import ExplainedItem, Explanation
from vllm_script.explain.shelf import MOST_KEPT
from vllm_script.explain.shown import shown_item
from vllm_script.frontend.request import ScriptRequest
from vllm_script.patches.app import extend_app
from vllm_script.vllm_types import AppState, ChatHandler

from . import playground, stats
from .ask import first_token, render

MOST_WAITING = 4
"""Requests that wait for their explanation; more are refused."""

router = APIRouter()
_one_at_a_time = asyncio.Lock()  # whose waiters are served in the order in which they came
_places = asyncio.Semaphore(1 + MOST_WAITING)


def install() -> None:
    """Give the API servers that are built from now on our routes."""
    extend_app(_extend)


def _extend(app: Any) -> None:
    app.include_router(router)
    app.include_router(stats.router)
    app.include_router(playground.router)


@router.post("/v1/script/explain", dependencies=[Depends(validate_json_request)])
@with_cancellation
async def explain(request: ChatCompletionRequest, raw_request: Request) -> JSONResponse:
    """Explain the images and videos of a chat completions request, when its turn has come."""
    if _places.locked():
        busy = create_error_response(
            f"this server makes one explanation at a time, and {MOST_WAITING} requests wait for "
            "theirs already; try again",
            "TooManyRequests",
            HTTPStatus.TOO_MANY_REQUESTS,
        )
        return _error(busy, {"Retry-After": "1"})
    async with _places, _one_at_a_time:
        return await _explain(request, raw_request.app.state)


async def _explain(request: ChatCompletionRequest, state: AppState) -> JSONResponse:
    explanation = Explanation()
    script = (request.model_extra or {}).get("script")
    chat = state.openai_serving_chat
    prompt = await render(chat, request, ScriptRequest(script, watcher=explanation))
    if isinstance(prompt, ErrorResponse):
        return _error(prompt)
    if not explanation.items:
        raise VLLMValidationError(
            "explain shows what is kept of images and videos, and the messages have none; add one "
            "as an image_url or video_url part",
            parameter="messages",
        )
    selections = await _selections(chat, prompt, explanation.items)
    model_config = state.engine_client.model_config
    answer: dict[str, Any] = {"images": [], "videos": []}
    for item, selection in zip(explanation.items, selections, strict=True):
        shown = await _in_a_thread(shown_item, model_config, item, selection)
        own = answer[f"{item.modality}s"]
        own.append({"index": len(own), **shown})
    return JSONResponse({"model": request.model or chat.models.model_name(), **answer})


async def _in_a_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call in a thread, and wait for its end also when cancelled: threads go on regardless."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(work)
    finally:
        await asyncio.wait([work])


def _error(response: ErrorResponse, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(response.model_dump(), response.error.code, headers)


async def _selections(
    chat: ChatHandler, prompt: Any, items: list[ExplainedItem]
) -> list[dict[str, Any]]:
    """Have the workers select; return what they kept of each item, {} of one left whole."""
    await chat.engine_client.collective_rpc("script_keep_selections")
    # Of several data-parallel engines the first is the one whose workers are asked.
    await first_token(chat, prompt, SamplingParams(max_tokens=1), data_parallel_rank=0)
    names = [item.plan.explain_id for item in items if item.plan]
    asked = chat.engine_client.collective_rpc("script_take_selections", args=(names,))
    # Tensor-parallel ranks select the same; later pipeline stages select nothing.
    first_rank, *_ = await asked
    if None in first_rank:
        raise VLLMValidationError(
            f"a worker keeps {MOST_KEPT} selections until they are fetched, and some of these "
            f"{len(names)} are gone; ask about fewer images at once",
            parameter="messages",
        )
    selections = iter(first_rank)
    return [next(selections) if item.plan else {} for item in items]
