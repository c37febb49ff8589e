"""Qwen's and GLM's vision towers, thinned: all patches in one row, four of them a visual token.

Every frame is a sequence of its own to attention. In Qwen2.5-VL most blocks see windows of it, for
which the visual tokens are put into another order; thinned, windows have unequally many patches,
and those without any are gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from ..kernels import to_device
from ..patches.probing import EXISTS, Probes, members
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
) | {"vllm.utils.gpu_sync_debug:gpu_sync_allowed": EXISTS}
"""How Qwen2.5-VL's tower puts visual tokens into windows, for its model's probes."""


def thinned_rows(
    tower: Any, pixels: torch.Tensor, grid: Sequence[int], thinning: Thinning
) -> torch.Tensor:
    """Rows [frames * S, D] of an item's survivors, as the tower's merger returns them.

    The host waits for what is chosen where the tower has windows, whose lengths follow from it, and
    else not.

    Args:
        tower: vLLM's vision transformer of a Qwen or a GLM.
        pixels: of the one item, as the tower takes them.
        grid: its frames, and rows and columns of patches.
    """
    frames, each, unit = grid[0], thinning.quota.each, tower.spatial_merge_size**2
    whole = _sequences(tower, np.arange(1, frames + 1) * each * unit)
    in_full = getattr(tower, "fullatt_block_indexes", None)
    windows = None if in_full is None else _Windows(tower, grid, frames * each)
    early: list[torch.Tensor] = []  # what mergers of early blocks return, of all visual tokens
    taken, rotary, parts = torch.empty(0), {}, whole

    def take(x: torch.Tensor) -> torch.Tensor:
        """The rows of survivors of x, [patches, ...]."""
        return x.view(-1, unit, *x.shape[1:]).index_select(0, taken).flatten(0, 1)

    def choose(x: torch.Tensor) -> torch.Tensor:
        """The states of survivors, of all states [patches, 1, H] behind the early blocks."""
        nonlocal taken, parts
        patches = x.view(-1, unit, x.shape[-1])
        if windows is not None:
            patches = windows.in_reading_order(patches)
        taken = thinning.choose(patches.view(frames, -1, *patches.shape[1:])).flatten()
        if windows is not None:
            taken, ends = windows.survivors(taken)
            parts = _sequences(tower, ends * unit)
        for rows in early:
            rows[: len(taken)].copy_(rows.index_select(0, taken))
        return take(x)

    def arguments(number: int, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """A block's arguments for the survivors; vLLM gives the same tables to every block."""
        rotary.update({name: take(kwargs[name]) for name in ROTARY if name not in rotary})
        sequences = whole if in_full is None or number in in_full else parts
        return {**kwargs, **rotary, **{k: v for k, v in sequences.items() if k in kwargs}}

    def merged_early(x: torch.Tensor, merger: Any) -> torch.Tensor:
        """Where the survivors' rows will be once they are chosen: among those of all."""
        early.append(merger(x))
        return early[-1][: frames * each]

    view = thinned_tower(tower, BLOCKS, thinning.num_early_blocks, choose, arguments)
    num_early = sum(
        level < thinning.num_early_blocks
        for level in getattr(tower, "deepstack_visual_indexes", ())
    )
    if num_early:
        mergers = list(getattr(tower, DEEPSTACK))
        replaced = [partial(merged_early, merger=merger) for merger in mergers[:num_early]]
        view = with_modules(view, DEEPSTACK, [*replaced, *mergers[num_early:]])
    metadata = None if windows is None else windows.metadata
    rows: torch.Tensor = view(pixels, [list(grid)], encoder_metadata=metadata)
    return rows


class _Windows:
    """The windows of Qwen2.5-VL's tower, for which visual tokens are put into another order.

    Args:
        tower: vLLM's vision transformer.
        grid: frames of the item, and rows and columns of patches.
        num_left: visual tokens that will be left.
    """

    def __init__(self, tower: Any, grid: Sequence[int], num_left: int) -> None:
        self._device = tower.device
        _, _, order, ends, _ = tower.get_rope_by_thw(*grid)
        self._order = order
        """[tokens] int64 on the CPU: the visual tokens, in reading order, window by window."""
        self._ends = ends.long() // tower.spatial_merge_size**2
        """Where each window ends among them."""
        self.metadata = tower.prepare_encoder_metadata([list(grid)])
        """What the tower is told of the item; the way back to reading order is filled in once the
        survivors are known."""
        self._reading_order = self.metadata["reverse_indices"]
        self.metadata["reverse_indices"] = self._reading_order.new_empty(num_left)

    def in_reading_order(self, tokens: torch.Tensor) -> torch.Tensor:
        """Put tokens [tokens, patches of a token, H] into the order that the prompt has."""
        return tokens.index_select(0, self._reading_order)

    def survivors(self, chosen: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        """Where survivors are in the order of windows, and where each window of them ends.

        Windows without any are gone.

        Args:
            chosen: [S] int64, visual tokens in reading order.
        """
        with gpu_sync_allowed():
            is_left = torch.isin(self._order, chosen.cpu())
        reverse = to_device(self._order[is_left].argsort(), self._device)
        self.metadata["reverse_indices"].copy_(reverse)
        ends = np.unique(is_left.cumsum(0)[self._ends - 1].numpy())
        return to_device(is_left.nonzero()[:, 0], self._device), ends[ends > 0]


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
