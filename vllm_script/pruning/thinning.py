"""Which visual tokens stay where a vision tower is thinned: those that GSP leaves.

GSP needs no question, so it can run before the tower has ended, on the states of an early block.
Every tile or frame keeps equally many tokens: how long sequences are, and how many tokens can be
kept in the end, follows from the item's shape alone.

    1. pool     GSP (script.py) in each tile, and of a video in windows of neighbouring frames, so
                that what stands still goes before what moves.                kernels.reduce_graph
    2. quota    Of a tile that has more in the pool, evenly spaced ones of these stay: its graph ran
                out of edges, so that none of them can stand for another, or its window's other
                frames had more to drop. Where it has fewer, evenly spaced ones of the others are
                added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch

from vllm_script.kernels import MAX_TOKENS, Backend, cosine_similarity, reduce_graph, to_device

from ..budget import even_shares
from .frames import WINDOW_FRAMES, windows_of_frames
from .groups import groups_of
from .params import PruningParams
from .pools import layout_of, mask_of
from .task import Task

PARAMS = PruningParams(pool_ratio=0.0)
"""The graph's: every item of a server is thinned by the same, whatever its request says."""


class Quota(NamedTuple):
    """What every tile or frame of an item keeps."""

    each: int
    """Visual tokens S that stay of each, at least 1."""
    can_be_kept: torch.Tensor
    """[tiles or frames, P] bool on CPU: the visual tokens that the prompt has. Of a tile with fewer
    of them than S they all stay. There may be tiles behind the last one of the item."""
    are_frames: bool
    """Whether these are frames of a video, one after the other."""

    @property
    def num_left(self) -> int:
        """How many of the tokens that can be kept are left."""
        return int(self.can_be_kept.sum(1).clamp(max=self.each).sum())


@torch.no_grad()
def survivors(tokens: torch.Tensor, quota: Quota, backend: Backend = "auto") -> torch.Tensor:
    """Return the visual tokens that stay.

    Args:
        tokens: [tiles or frames, P, D] states of an early block, any float dtype that kernels read.
        backend: of the operations of kernels/.

    Returns:
        tokens [tiles or frames, S] int64, ascending, numbered through all tiles; on the device of
        the states, which the host does not wait for.
    """
    num_tiles, size, _ = tokens.shape
    in_pool = to_device(quota.can_be_kept[:num_tiles].flatten(), tokens.device)
    are_joined = quota.are_frames and size <= MAX_TOKENS
    if parts := list((_of_frames if are_joined else _of_tiles)(quota, num_tiles)):
        in_pool = _reduced(in_pool, tokens.flatten(0, 1), parts, backend)
    return _exactly(in_pool.view(num_tiles, size), quota.each)


def _reduced(
    in_pool: torch.Tensor,
    tokens: torch.Tensor,
    parts: Sequence[tuple[torch.Tensor, int]],
    backend: Backend,
) -> torch.Tensor:
    """The pool [N] bool without what GSP drops in each part of the tokens [N, D]."""
    own, targets = zip(*parts, strict=True)
    rows = to_device(torch.cat(own), tokens.device).split([len(each) for each in own])
    tasks = [
        Task(tokens.index_select(0, each), target, None, "gsp", PARAMS, backend=backend)
        for each, target in zip(rows, targets, strict=True)
    ]
    for places in groups_of(tasks):
        group = [tasks[place] for place in places]
        similarity = cosine_similarity([task.tokens for task in group], backend=backend)
        pool = reduce_graph(similarity, [task.budget for task in group], **PARAMS.graph)
        is_left = mask_of(pool, layout_of(similarity.lengths, tokens.device))
        in_pool = in_pool.index_copy(0, torch.cat([rows[place] for place in places]), is_left)
    return in_pool


def _of_tiles(quota: Quota, num_tiles: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Tokens that GSP thins out together, and how many of them it is to leave: a tile's.

    A tile of more than MAX_TOKENS is cut. One of which all tokens stay is left out.
    """
    for tile, can_be_kept in enumerate(quota.can_be_kept[:num_tiles]):
        own = can_be_kept.nonzero()[:, 0] + tile * len(can_be_kept)
        if len(own) > quota.each:
            lengths = even_shares(len(own), -(-len(own) // MAX_TOKENS))
            ends = [quota.each * end // len(own) for end in accumulate(lengths)]
            for part, start, end in zip(own.split(lengths), [0, *ends], ends, strict=False):
                yield part, max(1, end - start)


def _of_frames(quota: Quota, num_frames: int) -> Iterator[tuple[torch.Tensor, int]]:
    """The same of a video, all of whose tokens can be kept: those of neighbouring frames."""
    size = quota.can_be_kept.shape[1]
    if size > quota.each:
        longest = min(WINDOW_FRAMES, MAX_TOKENS // size)
        for window in windows_of_frames(num_frames * size, num_frames, longest):
            yield window, quota.each * len(window) // size


def _exactly(in_pool: torch.Tensor, count: int) -> torch.Tensor:
    """As many tokens [tiles, count] of every tile, ascending, numbered through all tiles.

    Args:
        in_pool: [tiles, P] bool; evenly spaced ones of it stay, and where they are too few evenly
            spaced ones of the others as well.
    """
    num_tiles, size = in_pool.shape
    in_tile = in_pool.sum(1, keepdim=True)
    of_pool = in_tile.clamp(max=count)
    stays = torch.where(
        in_pool,
        _evenly(in_pool, of_pool, in_tile),
        _evenly(~in_pool, count - of_pool, size - in_tile),
    )
    places = (~stays).long().sort(dim=1, stable=True).indices[:, :count]
    return places + torch.arange(num_tiles, device=in_pool.device)[:, None] * size


def _evenly(mask: torch.Tensor, count: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Which of the `total` tokens that a mask has of each tile are `count` evenly spaced ones."""
    place = mask.cumsum(1) - 1
    return place * count % total.clamp(min=1) < count
