"""The `script` field of HTTP requests: from the request body to the renderer.

vLLM's request classes accept unknown fields but hand none on. Of what they do hand on,
`chat_template_kwargs` reaches the renderer (ours takes `script` out before any template sees it).
"""

from __future__ import annotations

from typing import Any

from vllm_script.frontend.request import REQUEST_KEY, ScriptRequest
from vllm_script.patches.chat_params import add_template_kwargs

ATTACHED = "_script_request"
"""Attribute of a vLLM request that one of our own routes makes; nothing in a body becomes one."""


def install() -> None:
    """Carry `script` from every request that is rendered as a chat to the renderer."""
    add_template_kwargs(_script_of)


def attach(request: Any, script: ScriptRequest) -> None:
    """Have vLLM's `request` carry `script` instead of its `script` field."""
    vars(request)[ATTACHED] = script


def _script_of(request: Any) -> dict[str, Any]:
    """What `request` asks of Script, under the key by which the renderer looks for it."""
    script = vars(request).get(ATTACHED) or (request.model_extra or {}).get("script")
    return {} if script is None else {REQUEST_KEY: script}
