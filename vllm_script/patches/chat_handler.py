"""vLLM's handler of chat completions and its engine client: called by our routes, not changed.

Why: explain and shadow mode take chat requests and must treat them exactly as vLLM does, with its
checks, its renderer and its LoRA adapters.

Upstream: the render server (https://github.com/vllm-project/vllm/pull/50195) renders requests for
other processes; nothing is known that an endpoint plugin may call inside the server. The methods:
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/entrypoints/openai/chat_completion/serving.py#L264
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/entrypoints/serve/engine/serving.py#L194

Remove when: vLLM renders chats for endpoint plugins.
"""

from __future__ import annotations

import copy
from typing import Any

from .probing import Probes, members

PROBES: Probes = {
    **members(
        "vllm.entrypoints.openai.chat_completion.serving:OpenAIServingChat",
        {
            "render_chat_request": ("request",),
            "_maybe_get_adapters": frozenset({"request", "supports_default_mm_loras"}),
        },
    ),
    **members(
        "vllm.v1.engine.async_llm:AsyncLLM",
        {
            "generate": frozenset(
                ("prompt", "sampling_params", "request_id")
                + ("lora_request", "priority", "data_parallel_rank")
            ),
            "collective_rpc": frozenset({"method", "args"}),
        },
    ),
    "vllm.entrypoints.serve.exception_handling.error_response:create_error_response": frozenset(
        {"message", "err_type", "status_code"}
    ),
    **members(
        "vllm.entrypoints.serve.utils.api_utils",
        {"validate_json_request": ("raw_request",), "with_cancellation": ("handler_func",)},
    ),
}


async def render_unlogged(chat: Any, request: Any) -> Any:
    """Render a chat request; its body is not logged, even with --enable-log-requests.

    Returns:
        (conversation, [engine input]), or the ErrorResponse that vLLM has for the client.
    """
    unlogged = copy.copy(chat)
    unlogged.request_logger = None
    return await unlogged.render_chat_request(request)


def lora_of(chat: Any, request: Any) -> Any:
    """The LoRA adapter that vLLM's chat handler would answer `request` with, None for none."""
    return chat._maybe_get_adapters(request, supports_default_mm_loras=True)
