"""`build_chat_params` of the requests that are rendered as chats.

Why: the request classes accept unknown fields, so a client may send `"script": {...}`, but vLLM
hands none of them on. The arguments of the chat template are handed on, up to the renderer.

Upstream: extra fields are accepted so that clients of other servers work, not to be read
(https://github.com/vllm-project/vllm/pull/10463). Nothing is known that would hand them on. The
patched lines:
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/entrypoints/openai/chat_completion/protocol.py#L643
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/entrypoints/openai/responses/protocol.py#L482
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/entrypoints/serve/tokenize/protocol.py#L131

Remove when: extra fields of a request reach the renderer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .probing import EXISTS, Probes
from .wrapping import wrap

_REQUESTS = {
    "ChatCompletionRequest": "vllm.entrypoints.openai.chat_completion.protocol",
    "ResponsesRequest": "vllm.entrypoints.openai.responses.protocol",
    "TokenizeChatRequest": "vllm.entrypoints.serve.tokenize.protocol",
}

PROBES: Probes = {
    # Arguments pass through the wrapper as they are: what they are called does not matter.
    **{f"{module}:{name}.build_chat_params": EXISTS for name, module in _REQUESTS.items()},
    **{f"{module}:{name}.model_extra": EXISTS for name, module in _REQUESTS.items()},
    "vllm.renderers.params:ChatParams.chat_template_kwargs": EXISTS,
}


def add_template_kwargs(kwargs_of: Callable[[Any], Mapping[str, Any]]) -> None:
    """Put `kwargs_of(request)` among the chat template's arguments of every request."""

    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def build_chat_params(self: Any, *args: Any, **kwargs: Any) -> Any:
            params = original(self, *args, **kwargs)
            ours = kwargs_of(self)
            if not ours:
                return params
            return replace(params, chat_template_kwargs={**params.chat_template_kwargs, **ours})

        return build_chat_params

    for name, module in _REQUESTS.items():
        wrap(getattr(importlib.import_module(module), name), "build_chat_params", wrapper)
