"""The `script` field of HTTP requests: from the request body to the renderer.

vLLM's request classes accept unknown fields but hand none on. Of what they do hand on,
`chat_template_kwargs` reaches the renderer (ours takes `script` out before any template sees it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vllm_script.frontend.request import REQUEST_KEY, ScriptRequest
from vllm_script.patches.vllm import wrap

ATTACHED = "_script_request"
"""Attribute of a vLLM request that one of our own routes makes; nothing in a body becomes one."""


def install() -> None:
    """Carry `script` from every request that is rendered as a chat to the renderer."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.serve.tokenize.protocol import TokenizeChatRequest

    for request_class in (ChatCompletionRequest, ResponsesRequest, TokenizeChatRequest):
        wrap(request_class, "build_chat_params", _build_chat_params)


def attach(request: Any, script: ScriptRequest) -> None:
    """Have vLLM's `request` carry `script` instead of its `script` field."""
    vars(request)[ATTACHED] = script


def _build_chat_params(original: Callable[..., Any]) -> Callable[..., Any]:
    def build_chat_params(self: Any, *args: Any, **kwargs: Any) -> Any:
        params = original(self, *args, **kwargs)
        script = vars(self).get(ATTACHED) or (self.model_extra or {}).get("script")
        if script is None:
            return params
        template_kwargs = {**params.chat_template_kwargs, REQUEST_KEY: script}
        return replace(params, chat_template_kwargs=template_kwargs)

    return build_chat_params
