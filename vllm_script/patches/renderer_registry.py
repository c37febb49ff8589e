"""`RENDERER_REGISTRY.renderers`: what makes prompts of messages, for each of two tokenizers.

Why: which text asks about which image is known while messages are still messages, and that is in
the renderer. Ours are subclasses of vLLM's, in every process that turns requests into prompts.

Upstream: the registry came with https://github.com/vllm-project/vllm/pull/30200; its `register`
does what this patch does, and warns at every start that a renderer is overwritten. The patched
lines: https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/renderers/registry.py#L22-L77

Remove when: the renderer is chosen by configuration, or `register` overwrites without a warning.
"""

from __future__ import annotations

from typing import Any

from .probing import EXISTS, Probes

PROBES: Probes = {
    "vllm.renderers.registry:RENDERER_REGISTRY.renderers": EXISTS,
    "vllm.renderers.registry:RendererRegistry.load_renderer": (
        *("renderer_mode", "config", "tokenizer"),
    ),
    "vllm.tokenizers.registry:tokenizer_args_from_config": frozenset({"config"}),
    "vllm.envs:VLLM_USE_RUST_FRONTEND": EXISTS,
}


def use_renderers(module: str) -> None:
    """Have vLLM build renderers with `module.build_<mode>_renderer(config, tokenizer)`."""
    from vllm.renderers.registry import RENDERER_REGISTRY

    for mode in ("hf", "mistral"):
        RENDERER_REGISTRY.renderers[mode] = (module, f"build_{mode}_renderer")


def check_front_end(model_config: Any, needed: str) -> None:
    """Raise ValueError where prompts would not pass through the model's renderer.

    Args:
        needed: vLLM's tokenizer mode for the model.
    """
    from vllm import envs
    from vllm.tokenizers.registry import tokenizer_args_from_config

    mode = tokenizer_args_from_config(model_config)[0]
    if mode != needed:
        raise ValueError(
            f"the script plugin prunes this model with --tokenizer-mode {needed}, and vLLM would "
            f"run it with {mode!r}; start with --tokenizer-mode {needed}"
        )
    if envs.VLLM_USE_RUST_FRONTEND:
        raise ValueError(
            "the script plugin does not work behind vLLM's Rust front end; "
            "unset VLLM_USE_RUST_FRONTEND"
        )
