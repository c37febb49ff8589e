"""`GPUModelRunner.reset_encoder_cache`: the moment at which encodings of images become worthless.

Why: it is called when weights are new or about to go (reload, sleep, the operator's command). What
our model remembers of images must go at the same moment.

Upstream: who should call it after a weight update is under discussion
(https://github.com/vllm-project/vllm/issues/44910; merged, then reverted in
https://github.com/vllm-project/vllm/pull/46125); that the model be told is not proposed. The
patched lines, for either model runner:
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/v1/worker/gpu_model_runner.py#L977
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/v1/worker/gpu/model_runner.py#L1058

Remove when: vLLM tells the model, or a worker extension is told.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .probing import EXISTS, Probes, members, require
from .wrapping import wrap

_V1 = "vllm.v1.worker.gpu_model_runner"
_V2 = "vllm.v1.worker.gpu.model_runner"
_METHODS: Probes = {"reset_encoder_cache": (), "get_model": ()}

PROBES: Probes = {
    "vllm.config.vllm:VllmConfig.use_v2_model_runner": EXISTS,
    **members(f"{_V1}:GPUModelRunner", _METHODS),
    **members(f"{_V2}:GPUModelRunner", _METHODS),
}


def on_encoder_cache_reset(vllm_config: Any, method: str) -> None:
    """Have the model runner call `method` of a model that has it whenever it forgets encodings."""
    module = _V2 if vllm_config.use_v2_model_runner else _V1
    require(members(f"{module}:GPUModelRunner", _METHODS))

    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def reset_encoder_cache(self: Any) -> None:
            original(self)
            getattr(self.get_model(), method, lambda: None)()

        return reset_encoder_cache

    wrap(importlib.import_module(module).GPUModelRunner, "reset_encoder_cache", wrapper)
