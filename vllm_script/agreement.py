"""What servers must have in common that share what one of them made of an image.

An encoder and a language model, or prefill and decode, name an image by its plan. With other
settings they would make other plans of the same request, never find what the other one stored, and
nobody would notice but by the time it takes. So they compare these terms.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from . import __version__
from .config import ScriptConfig
from .plan import ALGORITHM_VERSION

OWN_AFFAIRS = ("cache_gb", "kernels", "explain", "clip_model", "max_item_tokens")
"""Settings that no plan depends on: a server may choose them as it likes. A CLIP is compared by
the digest of its content, wherever it is installed."""


def model_terms(model_config: Any) -> dict[str, Any]:
    """Return what the visual tokens of an image depend on before pruning, as plain values.

    A model goes by the name that it is served under.

    Args:
        model_config: vLLM's `ModelConfig`.
    """
    kwargs = model_config.multimodal_config.mm_processor_kwargs or {}
    return {
        "model": model_config.served_model_name,
        "architecture": model_config.hf_config.architectures[0],
        "dtype": str(model_config.dtype).removeprefix("torch."),
        "mm_processor_kwargs": json.dumps(kwargs, sort_keys=True, default=str),
    }


def terms(model_config: Any) -> dict[str, Any]:
    """Return all that two servers must agree on, as plain values: those of the model, and settings.

    The model's folder or repository is among them, as it was given to vLLM, whose hash of an image
    has it.

    Args:
        model_config: vLLM's `ModelConfig` of a model that is pruned.
    """
    settings = ScriptConfig.of(model_config).to_dict()
    shared = {name: value for name, value in settings.items() if name not in OWN_AFFAIRS}
    others = {
        "model_path": model_config.model,
        "vllm_script": __version__,
        "algorithm": ALGORITHM_VERSION,
    }
    return json.loads(json.dumps({**model_terms(model_config), **others, **shared}))  # type: ignore[no-any-return]


def digest(values: Mapping[str, Any]) -> str:
    """Return a name for terms that is the same in every process, 32 hexadecimal digits."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def peer_name(vllm_config: Any) -> str | None:
    """Return the digest of a server's terms; None of a server that does not prune.

    Args:
        vllm_config: vLLM's `VllmConfig`.
    """
    model_config = vllm_config.model_config
    return digest(terms(model_config)) if hasattr(model_config, "vllm_script") else None


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return in which terms two servers differ, in words; None where they agree."""
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return "; ".join(f"{n} is {ours.get(n)} here and {theirs.get(n)} there" for n in names) or None
