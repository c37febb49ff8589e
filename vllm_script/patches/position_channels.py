"""`is_multimodal_pruning_enabled`, and where runners fill in positions from rows that carry them.

Why: in models with M-RoPE a token's position has three dimensions, and a token that is kept must
keep its own. vLLM has a mechanism for this in its own pruning of videos: rows carry positions in
extra channels, and the model's `recompute_mrope_positions` takes them off. It is used where the
worker's `MultiModalConfig` says that pruning is enabled, which is only with --video-pruning-rate.
Model runner V2, and V1 on CUDA, ask after the model is built; V1 on the CPU never asks, so the step
that gathers the rows is made to.

V2 has the positions on the GPU, and takes a number with them: how far behind its place a token is
that is generated later. What is pruned has text behind it, whose positions were right before, so
the number stays, and the host need not wait for the GPU to read it: a delta of None says so.

Upstream: the mechanism came with https://github.com/vllm-project/vllm/pull/22980; the pruning of
images is discussed in https://github.com/vllm-project/vllm/issues/45098. The patched lines:
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/config/multimodal.py#L752
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/v1/worker/gpu_model_runner.py#L2967
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/v1/worker/gpu/mm/rope.py#L87

Remove when: a model can say itself that its rows carry positions, and that a delta stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .probing import EXISTS, Probes, members, require
from .wrapping import wrap

_V1: Probes = members(
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner",
    {"_gather_mm_embeddings": ("scheduler_output", "shift_computed_tokens"), "get_model": ()},
)
_V2: Probes = {
    "vllm.v1.worker.gpu.model_states.mm_pruning:maybe_create_mm_pruner": EXISTS,
    "vllm.v1.worker.gpu.mm.rope:RopeState.update_prefill_positions": (
        *("req_idx", "positions", "delta"),
    ),
}
PROBES: Probes = {
    "vllm.config.multimodal:MultiModalConfig.is_multimodal_pruning_enabled": (),
    "vllm.config.vllm:VllmConfig.use_v2_model_runner": EXISTS,
    **_V1,
    **_V2,
}


def _yes() -> bool:
    return True


def expect_position_channels(multimodal_config: Any) -> None:
    """Have whoever asks know that rows carry positions for `recompute_mrope_positions`."""
    object.__setattr__(multimodal_config, "is_multimodal_pruning_enabled", _yes)


def ask_for_position_channels(vllm_config: Any) -> None:
    """Have model runner V1 ask on every platform, and V2 keep a delta that is None as it is."""
    require(_V2 if vllm_config.use_v2_model_runner else _V1)
    if vllm_config.use_v2_model_runner:
        from vllm.v1.worker.gpu.mm.rope import RopeState

        wrap(RopeState, "update_prefill_positions", _keeps_deltas)
        return
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def _gather_mm_embeddings(self: Any, *args: Any, **kwargs: Any) -> Any:
            config, model = self.model_config.multimodal_config, self.get_model()
            self.is_multimodal_pruning_enabled = (
                getattr(model, "supports_multimodal_pruning", False)
                and config.is_multimodal_pruning_enabled()
            )
            return original(self, *args, **kwargs)

        return _gather_mm_embeddings

    wrap(GPUModelRunner, "_gather_mm_embeddings", wrapper)


def _keeps_deltas(original: Callable[..., Any]) -> Callable[..., Any]:
    def update_prefill_positions(
        self: Any, req_idx: int, positions: Any, delta: int | None
    ) -> None:
        """Replace a request's positions; with a delta of None the one that it has stays."""
        if delta is None:
            delta = int(self.prefill_delta.np[req_idx])
        original(self, req_idx, positions, delta)

    return update_prefill_positions
