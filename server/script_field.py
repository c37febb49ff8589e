"""The `script` field of HTTP requests: from the request body to the renderer.

vLLM's request classes accept unknown fields but hand none on. Of what they do hand on,
`chat_template_kwargs` reaches the renderer (ours takes `script` out before any template sees it).
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

from vllm import envs

from vllm_script.frontend.request import REQUEST_KEY, ScriptRequest
from vllm_script.patches.anthropic_messages import hand_on
from vllm_script.patches.chat_params import add_template_kwargs

ATTACHED = "_script_request"
"""Attribute of a vLLM request that one of our own routes makes; nothing in a body becomes one."""

CHAINS = 10_000
"""Stored responses whose settings are remembered, the newest: a later one may go on from them."""

_scripts: OrderedDict[str, Any] = OrderedDict()
"""What was asked for each remembered response, by its id."""


def install() -> None:
    """Carry `script` from every request that is rendered as a chat to the renderer."""
    hand_on("script")
    add_template_kwargs(_script_of)


def attach(request: Any, script: ScriptRequest) -> None:
    """Have vLLM's `request` carry `script` instead of its `script` field."""
    vars(request)[ATTACHED] = script


def _script_of(request: Any) -> dict[str, Any]:
    """What `request` asks of Script, under the key by which the renderer looks for it."""
    script = vars(request).get(ATTACHED) or (request.model_extra or {}).get("script")
    if hasattr(request, "previous_response_id"):
        script = _in_its_chain(request, script)
    return {} if script is None else {REQUEST_KEY: script}


def _in_its_chain(request: Any, script: Any) -> Any:
    """What a request for a response asks of Script: without a word on it, what the one before did.

    So the pictures of a conversation are pruned alike, as long as nobody says otherwise, and the
    prefix cache knows them.
    """
    if script is None:
        script = _scripts.get(request.previous_response_id)
    stored = request.store and envs.VLLM_ENABLE_RESPONSES_API_STORE
    if script is None or not stored:
        return script
    return ScriptRequest(script, accepted=partial(_remember, request.request_id, script))


def _remember(response: str, script: Any) -> None:
    """Note what was asked for a response, by its id; the oldest goes where there are too many."""
    _scripts[response] = script
    if len(_scripts) > CHAINS:
        _scripts.popitem(last=False)
