"""Find the first layer of the language model that vLLM built, for relevance `lm-attention`.

Its own modules are called, so that how its weights are quantised, and which heads lie on which
tensor-parallel rank, is vLLM's business. They are those below a LoRA wrapper, which comes later:
relevance belongs to the base model.
"""

from __future__ import annotations

from typing import Any

import torch

from ..relevance.lm_attention import FirstLayer


def first_layer(language_model: Any) -> FirstLayer:
    """Return the first layer of vLLM's language model, up to its queries and keys.

    Raises:
        ValueError: there is none that is built as Llama's and Qwen's are.
    """
    try:
        layer = language_model.model.layers[0]
        norm, attention = layer.input_layernorm, layer.self_attn
        projection = attention.qkv_proj
        sizes = projection.num_heads, projection.num_kv_heads, projection.head_size
    except (AttributeError, IndexError) as error:
        raise _refusal(language_model, str(error)) from None
    if getattr(attention, "num_heads", sizes[0]) != sizes[0]:
        raise _refusal(language_model, "its queries come with a gate")
    if isinstance(getattr(attention, "qk_norm", None), torch.nn.Module):  # Qwen2's is a flag
        raise _refusal(language_model, "it norms queries and keys behind their positions")
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    for each in norms:
        if each is not None and each.weight.numel() != projection.head_size:
            raise _refusal(language_model, "its norm of queries and keys is not of single heads")

    def project(rows: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = projection(rows)[0]
        return projected

    return FirstLayer(norm, project, *sizes, *norms)


def _refusal(language_model: Any, reason: str) -> ValueError:
    """The error where the first layer cannot be read."""
    return ValueError(
        "relevance lm-attention reads input_layernorm and self_attn.qkv_proj of the first layer of "
        f"{type(language_model).__name__}, which are not there as in Llama or Qwen ({reason}); use "
        "--script-relevance embedding"
    )
