"""Relevance by the language model's own first layer: how well keys match the question's queries.

    q, k      = the layer's projections of visual tokens and of the question's input embeddings,
                behind its norm, with its biases and the norms of its heads, and without positions
    c_head    = k . q of a query head, with the key head of its group, mean over the question
    score     = sum over query heads of c_head / |c_head|, its length over the visual tokens

High means keep, and the scores are rescaled as those of every source are. Source: HAWK, arXiv
2604.07812. Differs: all heads have the same weight, there each may have one that was calibrated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from ..kernels import largest_relevance, normalize_relevance

Rows = Callable[[torch.Tensor], torch.Tensor]

CHUNK = 1024
"""Rows that are projected at once: queries, keys and values of a row may be three times as wide as
the row, and few rows take little memory beside the similarities of an image."""


@dataclass(frozen=True)
class FirstLayer:
    """The first layer of a language model up to its queries and keys, of the heads on this rank."""

    norm: Rows
    """From rows [L, D] to the rows [L, D] that attention projects."""
    project: Rows
    """From these to [L, >= (num_heads + num_kv_heads) * head_size]: queries, keys, and what is
    behind them, which is not read."""
    num_heads: int
    """Query heads; no two ranks have the same one."""
    num_kv_heads: int
    """Key heads, each of as many query heads, which follow each other."""
    head_size: int
    """Values of a query and of a key."""
    query_norm: Rows | None = None
    """From queries [L, num_heads, head_size] to the ones that are scored; None: they are."""
    key_norm: Rows | None = None
    """From keys [L, num_kv_heads, head_size] to the ones that are scored; None: they are."""

    def queries(self, rows: torch.Tensor) -> torch.Tensor:
        """Queries [L, num_heads, head_size] float32 of rows [L, D], without positions."""
        return self._heads(rows, 0, self.num_heads, self.query_norm)

    def keys(self, rows: torch.Tensor) -> torch.Tensor:
        """Keys [L, num_kv_heads, head_size] float32 of rows [L, D], without positions."""
        return self._heads(rows, self.num_heads, self.num_kv_heads, self.key_norm)

    def _heads(self, rows: torch.Tensor, first: int, count: int, norm: Rows | None) -> torch.Tensor:
        """Some heads [L, count, head_size] of what the layer projects rows to."""
        start, size = first * self.head_size, count * self.head_size
        projected = self.project(self.norm(rows.contiguous()))  # a kernel may take no other rows
        heads = projected.narrow(1, start, size).unflatten(1, (count, -1))
        return (heads if norm is None else norm(heads.contiguous())).float()


class LmAttention:
    """Scores visual tokens by the first layer of the language model that reads them.

    Args:
        layer: that layer, as this rank has it.
        all_reduce: from a tensor of every tensor-parallel rank to their sum, on every rank.
    """

    def __init__(self, layer: FirstLayer, all_reduce: Rows) -> None:
        self._layer = layer
        self._all_reduce = all_reduce

    def __call__(
        self, visual_tokens: torch.Tensor, questions: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Score the visual tokens of one image against some questions: what one finds relevant is.

        Args:
            visual_tokens: [N, D] as they enter the language model. One with a feature that is NaN
                or infinite matches nothing: all heads give it 0.
            questions: of each one the input embeddings [L, D] of its tokens.

        Returns:
            relevance [N] float32, high = keep, as `vllm_script.kernels.normalize_relevance` scales
            it: the same on every rank.
        """
        asked = torch.stack([self._asked(rows) for rows in questions])  # [Q, heads, d]
        groups = asked.unflatten(1, (self._layer.num_kv_heads, -1))  # [Q, key heads, group, d]
        by_key_head = groups.transpose(0, 1).flatten(1, 2)  # [key heads, Q * group, d]
        parts = [
            by_key_head @ self._layer.keys(rows).permute(1, 2, 0)
            for rows in visual_tokens.split(CHUNK)
        ]
        matches = torch.cat(parts, 2).nan_to_num(0.0, 0.0, 0.0)  # [key heads, Q * group, N]
        of_heads = normalize(matches, dim=2).unflatten(1, (len(questions), -1))
        scores = self._all_reduce(of_heads.sum((0, 2)))  # [Q, N]
        return largest_relevance([normalize_relevance(each) for each in scores])

    def _asked(self, question: torch.Tensor) -> torch.Tensor:
        """Mean query [heads, d] of a question's input embeddings [L, D]."""
        sums = [self._layer.queries(rows).sum(0) for rows in question.split(CHUNK)]
        return torch.stack(sums).sum(0) / len(question)
