"""POST /v1/script/explain: which patches a chat request's images keep, and which text decided it.

The request is rendered as any other and runs for one token, with identifiers that nothing shares,
so every image is selected anew; the workers then hand over what they selected.
"""

from __future__ import annotations

import asyncio
import base64
import io
import math
from http import HTTPStatus
from typing import Any

import torch
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.entrypoints.serve.utils.api_utils import validate_json_request, with_cancellation
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams

from vllm_script.config import ScriptConfig
from vllm_script.explain.drawing import draw_selection
from vllm_script.explain.explained import ExplainedImage, Explanation
from vllm_script.explain.shelf import MOST_KEPT
from vllm_script.families import family_of
from vllm_script.family import Views
from vllm_script.frontend.request import ScriptRequest
from vllm_script.patches.app import extend_app
from vllm_script.vllm_types import AppState, ChatHandler, ModelConfig

from . import playground, stats
from .ask import first_token, render

router = APIRouter()
_one_at_a_time = asyncio.Lock()


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
    """Explain the images of a chat completions request."""
    if _one_at_a_time.locked():
        busy = create_error_response(
            "another explanation is being made; this server makes one at a time, try again",
            "TooManyRequests",
            HTTPStatus.TOO_MANY_REQUESTS,
        )
        return _error(busy, {"Retry-After": "1"})
    async with _one_at_a_time:
        return await _explain(request, raw_request.app.state)


async def _explain(request: ChatCompletionRequest, state: AppState) -> JSONResponse:
    explanation = Explanation()
    script = (request.model_extra or {}).get("script")
    chat = state.openai_serving_chat
    prompt = await render(chat, request, ScriptRequest(script, watcher=explanation))
    if isinstance(prompt, ErrorResponse):
        return _error(prompt)
    images = explanation.images
    if not images:
        raise VLLMValidationError(
            "explain shows what is kept of images, and the messages have none; add one as an "
            "image_url part",
            parameter="messages",
        )
    selections = await _selections(chat, prompt, images)
    model_config = state.engine_client.model_config
    shown = [
        await asyncio.to_thread(_shown, model_config, *pair)
        for pair in zip(images, selections, strict=True)
    ]
    numbered = [{"index": index, **image} for index, image in enumerate(shown)]
    return JSONResponse({"model": request.model or chat.models.model_name(), "images": numbered})


def _error(response: ErrorResponse, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(response.model_dump(), response.error.code, headers)


async def _selections(
    chat: ChatHandler, prompt: Any, images: list[ExplainedImage]
) -> list[dict[str, Any]]:
    """Have the workers select; return what they kept of each image, {} of one left whole."""
    await chat.engine_client.collective_rpc("script_keep_selections")
    # Of several data-parallel engines the first is the one whose workers are asked.
    await first_token(chat, prompt, SamplingParams(max_tokens=1), data_parallel_rank=0)
    names = [image.plan.explain_id for image in images if image.plan]
    asked = chat.engine_client.collective_rpc("script_take_selections", args=(names,))
    # Tensor-parallel ranks select the same; later pipeline stages select nothing.
    first_rank, *_ = await asked
    if None in first_rank:
        raise VLLMValidationError(
            f"a worker keeps {MOST_KEPT} selections until they are fetched, and some of these "
            f"{len(names)} images are gone; ask about fewer images at once",
            parameter="messages",
        )
    selections = iter(first_rank)
    return [next(selections) if image.plan else {} for image in images]


def _shown(
    model_config: ModelConfig, image: ExplainedImage, selection: dict[str, Any]
) -> dict[str, Any]:
    """One image of the answer."""
    plan, total = image.plan, image.layout.num_placeholders
    all_read = image.all_read(ScriptConfig.of(model_config).clip_model)
    kept = selection.get("kept")
    views = _views(model_config.hf_config, image)
    relevance = _by_patch(image, views, selection.get("relevance"))
    return {
        "width": image.picture.width,
        "height": image.picture.height,
        "visual_tokens": total,
        "kept": total if kept is None else len(kept),
        "left_whole": plan is None,
        "keep_ratio": plan and plan.keep_ratio,
        "visual_token_budget": plan and plan.visual_token_budget,
        "mode": plan and plan.mode,
        "relevance": plan and plan.relevance,
        "query": {
            "questions": list(image.questions),
            "source": image.source,
            "all_read": all_read,
        },
        "kept_patches": kept,
        "patch_relevance": None if relevance is None else _numbers(relevance),
        "views": [{"name": name, "boxes": boxes.tolist()} for name, boxes in views.items()],
        "png": base64.b64encode(_drawn(image, views, kept, relevance)).decode(),
    }


def _views(hf_config: Any, image: ExplainedImage) -> Views:
    """Where the patches of an image lie on it."""
    family = family_of(hf_config.architectures[0])
    views = family.views(hf_config, image.layout, image.picture.height, image.picture.width)
    assert views is not None, "explain is refused at start-up for models that take no images"
    return views


def _by_patch(
    image: ExplainedImage, views: Views, relevance: list[float] | None
) -> torch.Tensor | None:
    """Relevance [patches] of all views, NaN of patches that are no candidates.

    Args:
        relevance: of the candidates, as the worker has it; None where it read none.
    """
    if relevance is None:
        return None
    by_patch = torch.full((sum(map(len, views.values())),), torch.nan)
    by_patch[image.layout.candidates] = torch.tensor(relevance)
    return by_patch


def _numbers(values: torch.Tensor) -> list[float | None]:
    """Values as JSON has them, which knows no NaN."""
    return [None if math.isnan(value) else value for value in values.tolist()]


def _drawn(
    image: ExplainedImage, views: Views, kept: list[int] | None, relevance: torch.Tensor | None
) -> bytes:
    """A PNG of the kept patches, and of the relevance where the selection read any."""
    patches = image.layout.candidates if kept is None else torch.tensor(kept)
    png = io.BytesIO()
    draw_selection(image.picture, views, patches, relevance).save(png, "PNG")
    return png.getvalue()
