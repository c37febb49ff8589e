"""Worker figures on /metrics: they are fetched when somebody looks.

What the workers observed since the last look is taken from them, so it is counted once, whichever
API server is asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from vllm.logger import init_logger

from vllm_script.frontend.metrics import metrics
from vllm_script.patches.app import extend_app
from vllm_script.vllm_types import AppState, EngineClient

logger = init_logger("vllm.script")


def install() -> None:
    """Have the API servers that are built from now on ask the workers."""
    extend_app(_extend)


def _extend(app: Any) -> None:
    app.add_middleware(RefreshMetrics, state=app.state)


class RefreshMetrics:
    """ASGI middleware: ask the workers before /metrics answers."""

    def __init__(self, app: Callable[..., Awaitable[None]], state: AppState) -> None:
        """`state`: the application's, which has vLLM's engine client once it serves."""
        self.app, self.state = app, state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].rstrip("/") == "/metrics":
            await refresh(self.state.engine_client)
        await self.app(scope, receive, send)


async def refresh(engine_client: EngineClient) -> None:
    """Add what the workers of all data-parallel engines have observed to this process's metrics."""
    try:
        engines = await engine_client.engine_core.call_utility_all_async(
            "collective_rpc", "script_take_observations", None, (), None
        )
    except Exception:  # a scrape must not fail because an engine does
        logger.exception("the workers' metrics could not be fetched")
        return
    # Tensor-parallel ranks do the same things; later pipeline stages encode nothing.
    metrics().add_worker_observations([first_rank for first_rank, *_ in engines])
