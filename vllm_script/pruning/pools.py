"""Pools as masks over rows: what is in one, and the pool of what is wanted.

How many rows a pool has is known on the device only, so a mask is how one is added to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from vllm_script.kernels import Pool, to_device


class Layout(NamedTuple):
    """Where each of N positions lies, in images or in windows that follow one another."""

    part: torch.Tensor
    """[N] int64: number of its image or window."""

    place: torch.Tensor
    """[N] int64: its place there, from 0."""

    first: torch.Tensor
    """[parts] int64: first position of each image or window."""

    last: torch.Tensor
    """[parts] int64: last position of each."""


def layout_of(lengths: Sequence[int], device: torch.device) -> Layout:
    """Layout of images or windows of these lengths, each at least 1."""
    sizes = torch.tensor(lengths)
    last = sizes.cumsum(0) - 1
    first = last - sizes + 1
    part = torch.arange(len(lengths)).repeat_interleave(sizes)
    place = torch.arange(len(part)) - first[part]
    parts = to_device(torch.stack([part, place]), device)
    ends = to_device(torch.stack([first, last]), device)
    return Layout(parts[0], parts[1], ends[0], ends[1])


def mask_of(pool: Pool, layout: Layout) -> torch.Tensor:
    """Which rows [N] are in a pool, bool. A pool of windows has the layout of the windows."""
    is_left = layout.place < pool.counts[layout.part]
    # Sums, for what is not left must not undo what is.
    times_left = torch.zeros_like(layout.part)
    times_left.index_add_(0, torch.where(is_left, pool.rows, 0), is_left.long())
    return times_left > 0


def pool_of(mask: torch.Tensor, layout: Layout) -> Pool:
    """The pool of the rows of a mask [N] over images."""
    outside = (~mask).long()
    rows = (2 * layout.part + outside).sort(stable=True).indices
    counts = torch.zeros_like(layout.first).index_add_(0, layout.part, mask.long())
    return Pool(rows, counts)
