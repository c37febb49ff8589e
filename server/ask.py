"""Ask the engine for one token as a chat request would: for routes of our own.

The prompt is vLLM's: its handler checks the model's name and renders the messages. What follows is
not: no sampling settings of the request count, and nothing of it is logged.
"""

from __future__ import annotations

import uuid
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams

from vllm_script.frontend.request import ScriptRequest
from vllm_script.patches.chat_handler import render_unlogged
from vllm_script.vllm_types import ChatHandler

from .script_field import attach


async def render(chat: ChatHandler, request: ChatCompletionRequest, script: ScriptRequest) -> Any:
    """The engine's input for one token, or the ErrorResponse that vLLM has for the client.

    Args:
        chat: of the application, `app.state.openai_serving_chat`.
        request: is changed: `script` goes with it, and it asks for one token.
    """
    request.max_tokens, request.max_completion_tokens, request.n = 1, None, 1
    attach(request, script)
    rendered = await render_unlogged(chat, request)
    if isinstance(rendered, ErrorResponse):
        return rendered
    _, (prompt,) = rendered
    return prompt


async def first_token(
    chat: ChatHandler, prompt: Any, params: SamplingParams, **options: Any
) -> RequestOutput:
    """Run a rendered prompt for one token; `options` go to the engine's `generate`."""
    name = f"script-{uuid.uuid4().hex}"
    outputs = chat.engine_client.generate(prompt, params, name, **options)
    return [output async for output in outputs][-1]
