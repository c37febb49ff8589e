"""`AnthropicMessagesRequest`, and the chat request that vLLM makes of it.

Why: Anthropic's request classes drop fields that they do not know, so that `"script": {...}` of a
request to /v1/messages, its render and its count of tokens, does not even reach the class. With
unknown fields let in, it is put into the chat request, from where it goes on as any other's.

Upstream: nothing is known that would let them in. The patched lines:
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/entrypoints/anthropic/protocol.py#L240
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/entrypoints/anthropic/serving.py#L627

Remove when: these classes accept unknown fields and hand them on.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .probing import EXISTS, Probes
from .wrapping import wrap

_PROTOCOL = "vllm.entrypoints.anthropic.protocol"
_SERVING = "vllm.entrypoints.anthropic.serving:AnthropicServingMessages"
_REQUESTS = ("AnthropicMessagesRequest", "AnthropicCountTokensRequest")

PROBES: Probes = {
    **{f"{_PROTOCOL}:{name}.model_rebuild": EXISTS for name in _REQUESTS},
    **{f"{_PROTOCOL}:{name}.model_config": EXISTS for name in _REQUESTS},
    "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest.model_extra": EXISTS,
    f"{_SERVING}._build_base_request": ("anthropic_request", "openai_messages"),
}


def hand_on(field: str) -> None:
    """Hand one field of Anthropic's requests, which their classes do not know, to the chat request.

    It must come before the application is built, which compiles the classes into its routes.
    """
    for name in _REQUESTS:
        request_class = getattr(importlib.import_module(_PROTOCOL), name)
        request_class.model_config["extra"] = "allow"
        request_class.model_rebuild(force=True)

    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def build_base_request(cls: Any, anthropic_request: Any, openai_messages: Any) -> Any:
            request = original(cls, anthropic_request, openai_messages)
            if (value := (anthropic_request.model_extra or {}).get(field)) is not None:
                request.model_extra[field] = value
            return request

        return build_base_request

    module, _, owner = _SERVING.partition(":")
    wrap(getattr(importlib.import_module(module), owner), "_build_base_request", wrapper)
