"""Qwen's and GLM's vision towers, thinned: all patches in one row, four of them a visual token.

Every frame is a sequence of its own to attention. In Qwen2.5-VL most blocks see windows of it, for
which the visual tokens are put into another order; thinned, windows have unequally many patches,
and those without any are gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention

from ..kernels import to_device
from ..patches.probing import Probes, members
from ..worker.tower import Thinning, thinned_tower, with_modules

BLOCKS, DEEPSTACK = "blocks", "deepstack_merger_list"
ROTARY = ("rotary_pos_emb_cos", "rotary_pos_emb_sin")

ATTENTION: Probes = members(
    "vllm.model_executor.layers.attention.mm_encoder_attention:MMEncoderAttention",
    {
        "maybe_recompute_cu_seqlens": frozenset(
            ("attn_backend", "cu_seqlens", "hidden_size", "tp_size", "device")
            + ("fp8_padded_hidden_size",)
        ),
        "maybe_compute_seq_lens": frozenset({"attn_backend", "cu_seqlens", "device"}),
        "compute_max_seqlen": frozenset({"attn_backend", "cu_seqlens"}),
    },
)
"""How vLLM tells attention of sequences, for the probes of Qwen's models."""

WINDOWS: Probes = members(
    "vllm.model_executor.models.qwen2_5_vl:Qwen2_5_VisionTransformer",
    {
        "forward": frozenset({"x", "grid_thw", "encoder_metadata"}),
        "prepare_encoder_metadata": frozenset({"grid_thw"}),
        "get_rope_by_thw": ("t", "h", "w"),
    },
)
"""How Qwen2.5-VL's tower puts visual tokens into windows, for its model's probes."""


def thinned_rows(
    tower: Any, pixels: torch.Tensor, grid: Sequence[int], thinning: Thinning
) -> torch.Tensor:
    """Rows [frames * S, D] of an item's survivors, as the tower's merger returns them.

    Args:
        tower: vLLM's vision transformer of a Qwen or a GLM.
        pixels: of the one item, as the tower takes them.
        grid: its frames, and rows and columns of patches.
    """
    frames, tokens = thinning.survivors.shape
    unit = tower.spatial_merge_size**2
    places, windows, metadata = thinning.survivors.flatten(), None, {}
    if hasattr(tower, "fullatt_block_indexes"):
        metadata = tower.prepare_encoder_metadata([list(grid)])
        _, _, order, ends, _ = tower.get_rope_by_thw(*grid)  # order: of visual tokens
        is_left = torch.isin(order, places)
        metadata["reverse_indices"] = to_device(order[is_left].argsort(), tower.device)
        places = is_left.nonzero().flatten()
        windows = np.unique(is_left.cumsum(0)[ends.long() // unit - 1].numpy()) * unit
        windows = windows[windows > 0]  # the first ones may have none
    taken = to_device(places, tower.device)

    def take(x: torch.Tensor) -> torch.Tensor:
        """The rows of survivors of x, [patches, ...]."""
        return x.view(-1, unit, *x.shape[1:]).index_select(0, taken).flatten(0, 1)

    whole = _sequences(tower, np.arange(1, frames + 1) * tokens * unit)
    parts = whole if windows is None else _sequences(tower, windows)
    in_full = getattr(tower, "fullatt_block_indexes", range(len(tower.blocks)))
    rotary: dict[str, torch.Tensor] = {}

    def arguments(number: int, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """A block's arguments for the survivors; vLLM gives the same tables to every block."""
        rotary.update({name: take(kwargs[name]) for name in ROTARY if name not in rotary})
        sequences = whole if number in in_full else parts
        return {**kwargs, **rotary, **{k: v for k, v in sequences.items() if k in kwargs}}

    view = thinned_tower(tower, BLOCKS, thinning.num_early_blocks, take, arguments)
    early = sum(
        level < thinning.num_early_blocks
        for level in getattr(tower, "deepstack_visual_indexes", ())
    )
    if early:
        mergers = list(getattr(tower, DEEPSTACK))
        of_all = [lambda x, merger=merger: merger(take(x)) for merger in mergers[:early]]
        view = with_modules(view, DEEPSTACK, [*of_all, *mergers[early:]])
    rows: torch.Tensor = view(pixels, [list(grid)], encoder_metadata=metadata or None)
    return rows


def _sequences(tower: Any, ends: np.ndarray) -> dict[str, Any]:
    """What attention is told of sequences that end at these patches, by name of argument."""
    bounds = np.concatenate([[0], ends]).astype(np.int32)
    backend = tower.attn_backend
    width = getattr(tower, "hidden_size", None) or tower.embed_dim
    return {
        "cu_seqlens": MMEncoderAttention.maybe_recompute_cu_seqlens(
            backend,
            bounds,
            width,
            getattr(tower, "tp_size", 1),
            tower.device,
            fp8_padded_hidden_size=getattr(tower, "fp8_padded_hidden_size", None),
        ),
        "max_seqlen": torch.tensor(
            MMEncoderAttention.compute_max_seqlen(backend, bounds), dtype=torch.int32
        ),
        "sequence_lengths": MMEncoderAttention.maybe_compute_seq_lens(
            backend, bounds, tower.device
        ),
    }
