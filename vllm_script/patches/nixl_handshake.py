"""`compute_nixl_compatibility_hash`: what NIXL peers compare before one reads the other's KV cache.

Why: decode finds a prompt's blocks at prefill by the name of the request, and not by what is in
them. With other settings of ours the prompt has another length on either side, and NIXL reads as
many tokens as the shorter one has, whatever they are of. The answer would be wrong, and no error.

Upstream: the hash is made of a list that has vLLM's version, the model's shape and the backends; a
model or plugin cannot add to it. NIXL alone has such a hash among the connectors between peers. The
patched line:
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/distributed/kv_transfer/kv_connector/v1/nixl/base_worker.py#L1508

Remove when: vLLM asks the model, or compares the lengths of the prompts.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .probing import Probes, require
from .wrapping import wrap

_WORKER = "vllm.distributed.kv_transfer.kv_connector.v1.nixl.base_worker"

PROBES: Probes = {f"{_WORKER}:compute_nixl_compatibility_hash": frozenset({"vllm_config"})}


def compare_between_peers(name_of: Callable[[Any], str | None]) -> None:
    """Have NIXL peers refuse each other unless what they must agree on has the same name.

    Args:
        name_of: returns it of vLLM's `VllmConfig`; None of a server to which nothing is added. The
            error of a peer that is refused has the names of both.
    """
    require(PROBES)

    def wrapper(original: Callable[..., str]) -> Callable[..., str]:
        def compute_nixl_compatibility_hash(vllm_config: Any, *args: Any, **kwargs: Any) -> str:
            own, name = original(vllm_config, *args, **kwargs), name_of(vllm_config)
            return own if name is None else f"{own}-script-{name}"

        return compute_nixl_compatibility_hash

    wrap(importlib.import_module(_WORKER), "compute_nixl_compatibility_hash", wrapper)
