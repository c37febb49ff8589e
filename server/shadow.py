"""Shadow mode: answers stay unpruned, and a share of them is compared with what pruning would say.

After an answer has been sent, its request runs twice more for one token: unpruned, which the prefix
cache answers for the most part, and pruned. How far the two first-token distributions are apart
goes into script_shadow_* metrics. One comparison at a time; the others are dropped and counted.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.logger import init_logger
from vllm.sampling_params import SamplingParams

from vllm_script.config import ScriptConfig
from vllm_script.frontend.metrics import metrics
from vllm_script.frontend.request import ScriptRequest
from vllm_script.patches.app import extend_app
from vllm_script.patches.chat_handler import lora_of
from vllm_script.vllm_types import AppState

from .ask import first_token, render

logger = init_logger("vllm.script")

PATH = "/v1/chat/completions"
TOP_TOKENS = 20
"""The likeliest tokens of each, whose probabilities are compared one by one. `logprob_token_ids`
would give those of the same tokens, but takes away what other requests of its batch asked for."""
LAST = 2**31 - 1
"""Priority after everybody else's, where the scheduler goes by priority."""


def install() -> None:
    """Have the API servers that are built from now on compare."""
    extend_app(_extend)


def _extend(app: Any) -> None:
    app.add_middleware(Shadow, state=app.state)


class Shadow:
    """ASGI middleware: remembers the bodies of a share of chat requests until they are answered."""

    def __init__(self, app: Callable[..., Awaitable[None]], state: AppState) -> None:
        """`state`: the application's, which has vLLM's handlers once it serves."""
        self.app, self.state = app, state
        self._running: asyncio.Task[None] | None = None

    @cached_property
    def config(self) -> ScriptConfig:
        """The settings in force."""
        return ScriptConfig.of(self.state.engine_client.model_config)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not _is_chat(scope) or random.random() >= (self.config.shadow or 0):
            return await self.app(scope, receive, send)
        body: list[bytes] = []
        statuses: list[int] = []

        async def receive_and_keep() -> Any:
            message = await receive()
            body.append(message.get("body", b""))
            return message

        async def send_and_look(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        await self.app(scope, receive_and_keep, send_and_look)
        if statuses == [200]:
            self._answered(b"".join(body))

    def _answered(self, body: bytes) -> None:
        # Inside a JSON string the quotes are escaped: these are keys, or a text of that one word.
        if b'"image_url"' not in body or b'"script"' in body:
            return
        if self._running is not None and not self._running.done():
            metrics().shadow_requests.labels("dropped").inc()
            return
        self._running = asyncio.create_task(self._compare(body))

    async def _compare(self, body: bytes) -> None:
        try:
            whole, pruned = await self._first_tokens(await asyncio.to_thread(json.loads, body))
        except Exception as error:  # of a copy nobody waits for; its message may quote the request
            logger.debug("a shadow request failed: %s", type(error).__name__)
            metrics().shadow_requests.labels("failed").inc()
            return
        agree = whole.token_ids[0] == pruned.token_ids[0]
        distance = total_variation(*map(_probabilities, (whole, pruned)))
        metrics().count_shadow(agree, distance)

    async def _first_tokens(self, body: Any) -> tuple[Any, Any]:
        """Return the first token of the request, unpruned and pruned."""
        return await self._first_token(body, {}), await self._first_token(body, self.config.amount)

    async def _first_token(self, body: Any, script: dict[str, Any]) -> Any:
        request = await asyncio.to_thread(ChatCompletionRequest.model_validate, body)
        chat = self.state.openai_serving_chat
        prompt = await render(chat, request, ScriptRequest(script))
        if isinstance(prompt, ErrorResponse):
            raise RuntimeError(prompt.error.message)
        limit = self.state.engine_client.model_config.max_logprobs
        top = TOP_TOKENS if limit == -1 else min(TOP_TOKENS, limit)
        params = SamplingParams(max_tokens=1, temperature=0, logprobs=top)
        lora = lora_of(chat, request)
        output = await first_token(chat, prompt, params, priority=LAST, lora_request=lora)
        return output.outputs[0]


def total_variation(p: Mapping[int, float], q: Mapping[int, float]) -> float:
    """Half of what two distributions differ by: 0 where they are equal, 1 where disjoint.

    Args:
        p, q: probabilities of some tokens by token id. What is left of each counts as one token
            more, which is the same in both.
    """
    apart = sum(abs(p.get(token, 0.0) - q.get(token, 0.0)) for token in p.keys() | q.keys())
    others = abs(sum(p.values()) - sum(q.values()))
    return (apart + others) / 2


def _probabilities(output: Any) -> dict[int, float]:
    return {token: math.exp(entry.logprob) for token, entry in output.logprobs[0].items()}


def _is_chat(scope: Any) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    return bool(scope["path"].removeprefix(scope.get("root_path", "")) == PATH)
