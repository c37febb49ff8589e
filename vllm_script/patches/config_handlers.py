"""`MODELS_CONFIG_MAP`: what vLLM sets for some models alone, by architecture name.

Why: a pruned model has an architecture name of its own, so vLLM would not find what it does for the
stock one. For Qwen3.5 that is the type of its states, which the checkpoint asks for.

Upstream: the table is vLLM's own, and nothing is offered to models from outside. It is here:
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/models/config.py#L1211

Remove when: a model class can say itself what it changes of the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable

from .probing import EXISTS, Probes

PROBES: Probes = {"vllm.model_executor.models.config:MODELS_CONFIG_MAP": EXISTS}


def handle_as(names: Iterable[tuple[str, str]]) -> None:
    """Have vLLM do for models of these names what it does for others.

    Args:
        names: architecture names in pairs, a stock model's and that of the one to be like it.
    """
    from vllm.model_executor.models import config

    for stock, name in names:
        if stock in config.MODELS_CONFIG_MAP:
            config.MODELS_CONFIG_MAP[name] = config.MODELS_CONFIG_MAP[stock]
