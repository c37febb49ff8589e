"""Gated delta nets on CPUs in float32, which vLLM computes in bfloat16 alone there.

So answers can be compared with those of transformers to the same tolerance as other families'.
What vLLM knows of requests, chunks and places of states is left to it; the arithmetic of a
sequence is transformers' own, and the convolution vLLM's in PyTorch.
"""

from unittest import mock

import torch
from transformers.models.qwen3_5.modeling_qwen3_5 import torch_chunk_gated_delta_rule
from vllm.model_executor.layers.mamba.ops.cpu import gdn_attention
from vllm.utils.torch_utils import LayerNameType


def compute_in_float32():
    """Have this process compute gated delta nets in float32; before a model is built."""
    gdn_attention.cpu_gdn_attention_core = _core


def _core(
    mixed_qkv: torch.Tensor,
    b: torch.Tensor,
    a: torch.Tensor,
    core_attn_out: torch.Tensor,
    layer_name: LayerNameType,
) -> None:
    """`cpu_gdn_attention_core` without its check of the type, and with the functions below."""
    context = gdn_attention.get_forward_context()
    layer = context.no_compile_layers[gdn_attention._resolve_layer_name(layer_name)]
    if context.attn_metadata is None:
        return
    metadata = context.attn_metadata[layer.prefix]
    with (
        mock.patch.multiple(gdn_attention.ops, **_OPERATORS),
        mock.patch.object(torch.cpu, "_is_avx512_bf16_supported", lambda: False),
    ):
        gdn_attention._cpu_gdn_attention_nonspec(layer, metadata, mixed_qkv, b, a, core_attn_out)


def _gating(A_log, a, b, dt_bias):
    """Decay and strength of every token, [1, tokens, heads] each."""
    decay = -A_log.float().exp() * torch.nn.functional.softplus(a.float() + dt_bias.float())
    return decay[None], b.float().sigmoid()[None]


def _rule(query, key, value, decay, strength, state):
    """Outputs [tokens, heads, width] of a stretch of one sequence, and its state behind it."""
    repeats = value.shape[2] // query.shape[2]
    query, key = (x.repeat_interleave(repeats, dim=2) for x in (query, key))
    rows, after = torch_chunk_gated_delta_rule(
        *(query, key, value, decay, strength),
        initial_state=state[None],
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    return rows[0], after[0]


def _prefill(query, key, value, g, beta, initial_state, cu_seqlens, initial_state_indices, **_):
    rows = []
    bounds = cu_seqlens.tolist()
    for slot, start, end in zip(initial_state_indices.tolist(), bounds, bounds[1:], strict=False):
        stretch = [x[:, start:end] for x in (query, key, value, g, beta)]
        own, initial_state[slot] = _rule(*stretch, initial_state[slot])
        rows.append(own)
    return torch.cat(rows)[None], initial_state


def _decode(
    A_log, dt_bias, q, k, v, a, b, initial_state_source, initial_state_indices, cu_seqlens, **_
):
    g, beta = _gating(A_log, a, b, dt_bias)
    rows, _ = _prefill(q, k, v, g, beta, initial_state_source, cu_seqlens, initial_state_indices)
    return rows[0][:, None]


_OPERATORS = {
    "fused_gdn_gating_cpu": _gating,
    "chunk_gated_delta_rule_cpu": _prefill,
    "fused_sigmoid_gating_delta_rule_update_cpu": _decode,
}
