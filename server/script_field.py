"""The `script` field of HTTP requests: from the request body to the renderer.

vLLM's request classes accept unknown fields but hand none on. Of what they do hand on,
`chat_template_kwargs` reaches the renderer (ours takes `script` out before any template sees it).
"""

from __future__ import annotations

from typing import Any

from vllm_script.frontend.request import REQUEST_KEY, Inquiry
from vllm_script.patches.chat_params import add_template_kwargs

_INQUIRY = "_script_inquiry"
"""Attribute of a request that one of our own routes makes; nothing in a body becomes one."""


def install() -> None:
    """Carry `script` from every request that is rendered as a chat to the renderer."""
    add_template_kwargs(_script_of)


def attach(request: Any, inquiry: Inquiry) -> None:
    """Have `request` carry `inquiry` instead of its `script` field."""
    vars(request)[_INQUIRY] = inquiry


def _script_of(request: Any) -> dict[str, Any]:
    """What `request` asks of Script, under the key by which the renderer looks for it."""
    script = vars(request).get(_INQUIRY) or (request.model_extra or {}).get("script")
    return {} if script is None else {REQUEST_KEY: script}
