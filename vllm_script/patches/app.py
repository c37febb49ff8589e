"""`init_entrypoints_middleware`: the last step in the making of the API server's application.

Why: what the workers measure belongs on /metrics, and explain is a route. Both need the application
before it serves.

Upstream: endpoint plugins (https://github.com/vllm-project/vllm/issues/46565, merged as
https://github.com/vllm-project/vllm/pull/47454) add routes, but only where VLLM_PLUGINS names them,
and warn at every start where it does not. The patched line:
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/entrypoints/launchers/app.py#L54

Remove when: endpoint plugins load as general plugins do, or can be enabled by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .probing import Probes
from .wrapping import wrap

PROBES: Probes = {
    "vllm.entrypoints.launchers.app:init_entrypoints_middleware": (
        *("args", "app", "supported_tasks"),
    ),
}

_extensions: list[Callable[[Any], None]] = []


def extend_app(extension: Callable[[Any], None]) -> None:
    """Have every API server that is built from now on pass its FastAPI app to `extension`.

    But not `vllm launch render`, which has no engine that could be asked.
    """
    from vllm.entrypoints.launchers import app as launcher

    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def init_entrypoints_middleware(args: Any, app: Any, supported_tasks: Any) -> None:
            original(args, app, supported_tasks)
            for extend in _extensions if "render" not in supported_tasks else ():
                extend(app)

        return init_entrypoints_middleware

    if extension not in _extensions:
        _extensions.append(extension)
    wrap(launcher, "init_entrypoints_middleware", wrapper)
