"""Which names of vLLM matter in which process, and whether this vLLM is one that we know."""

from __future__ import annotations

from . import (
    anthropic_messages,
    app,
    chat_handler,
    chat_params,
    config_handlers,
    encoder_cache,
    engine_args,
    field_types,
    nixl_handshake,
    overrides,
    position_channels,
    renderer_registry,
)
from .probing import Probes, is_supported, misfits, unsupported

START_UP: Probes = {
    **engine_args.PROBES,
    "vllm:ModelRegistry.register_model": frozenset({"model_arch", "model_cls"}),
}
"""Names that are used in every process, whether anybody asks for pruning or not."""

FRONT_END: Probes = {
    **chat_params.PROBES,
    **anthropic_messages.PROBES,
    **field_types.PROBES,
    **config_handlers.PROBES,
    **renderer_registry.PROBES,
    **app.PROBES,
    **chat_handler.PROBES,
    **overrides.RENDERER,
    **overrides.PROCESSING,
    **overrides.SCHEDULING,
    **overrides.ROW_STORE,
    **overrides.ENGINES,
}
"""Names that are used once somebody has asked for pruning, but for those of the workers."""

WORKER: Probes = {
    **encoder_cache.PROBES,
    **nixl_handshake.PROBES,
    **position_channels.PROBES,
    **overrides.WORKER,
}
"""Names that are used where the model runs; each patch looks for its own when it is installed."""


def start_up_problem() -> str | None:
    """Why the plugin must keep out of this vLLM, in one line; None where it need not."""
    import vllm

    version = getattr(vllm, "__version__", "an unnumbered one")
    if not is_supported(version):
        return unsupported(f"this is {version}")
    problem, *_ = [*misfits(START_UP), None]
    return problem and unsupported(problem)
