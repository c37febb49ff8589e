"""Which visual tokens stay where a vision tower is thinned: those that GSP leaves.

GSP needs no question, so it can run before the tower has ended, on the states of an early block.
Every tile or frame keeps equally many tokens: how long sequences are, and how many tokens can be
kept in the end, follows from the item's shape alone.

    1. rank     GSP (script.py) in each tile, and of a video in windows of neighbouring frames, so
                that what stands still goes before what moves. It may run out of edges, where all
                tokens are much alike or none are, and leave too many. Then GSP in a second graph,
                which has more edges, says which of them go first.            kernels.reduce_graph
    2. quota    Of every tile as many tokens as it keeps stay, by rank. Where not all of a rank
                stay, evenly spaced ones do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from vllm_script.kernels import MAX_TOKENS, Backend, cosine_similarity, reduce_graph, to_device

from ..budget import even_shares, shares
from .frames import WINDOW_FRAMES, windows_of_frames
from .geometry import distinctiveness
from .groups import groups_of
from .params import PruningParams
from .pools import layout_of, mask_of
from .task import Task

PARAMS = PruningParams()
"""The first graph's, the same whatever a request says: edges are tau above the mean cosine."""
SECOND = PruningParams(tau=0.0)
"""The second graph's: edges are above the mean cosine, where there are some."""


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
def most_distinct_patches(states: torch.Tensor, backend: Backend = "auto") -> torch.Tensor:
    """Return a state for each visual token: that of its patch that is least like its tile's mean.

    A token is worth what the most distinct of its patches shows. The mean of its patches would say
    little of a thing that lies on one of them.

    Args:
        states: [tiles or frames, P, patches of a token, D], any float dtype that kernels read.
        backend: of the operations of kernels/.

    Returns:
        states [tiles or frames, P, D]; the first of equally distinct patches.
    """
    _, tokens, patches, width = states.shape
    if patches == 1:
        return states[:, :, 0]
    tiles = [distinctiveness(own.reshape(tokens * patches, width), backend) for own in states]
    chosen = torch.stack(tiles).view(-1, tokens, patches).argmax(2)
    return states.gather(2, chosen[..., None, None].expand(-1, -1, 1, width)).squeeze(2)


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
    rank = to_device(torch.where(quota.can_be_kept[:num_tiles], 0, 2).flatten(), tokens.device)
    are_joined = quota.are_frames and size <= MAX_TOKENS
    if parts := list((_of_frames if are_joined else _of_tiles)(quota, num_tiles)):
        rank = _ranked(rank, tokens.flatten(0, 1), parts, backend)
    return _lowest(rank.view(num_tiles, size), quota.each)


def _ranked(
    rank: torch.Tensor,
    tokens: torch.Tensor,
    parts: Sequence[tuple[torch.Tensor, int]],
    backend: Backend,
) -> torch.Tensor:
    """Ranks [N] of tokens [N, D]: GSP's in these parts, 0 to 2, and of the others as they are."""
    device, lengths = tokens.device, [len(own) for own, _ in parts]
    rows = to_device(torch.cat([own for own, _ in parts]), device).split(lengths)
    tasks = [
        Task(tokens.index_select(0, own), target, None, "gsp", PARAMS, backend=backend)
        for own, (_, target) in zip(rows, parts, strict=True)
    ]
    for places in groups_of(tasks):
        group = [tasks[place] for place in places]
        similarity = cosine_similarity([task.tokens for task in group], backend=backend)
        targets, layout = [task.budget for task in group], layout_of(similarity.lengths, device)
        pool = reduce_graph(similarity, targets, **PARAMS.graph)
        own = 2 * (~mask_of(pool, layout)).long()
        is_over = pool.counts > to_device(torch.tensor(targets), device)
        if device.type != "cpu" or is_over.any():  # of a GPU the host does not wait to hear
            second = mask_of(reduce_graph(similarity, targets, **SECOND.graph), layout)
            own = torch.where(is_over[layout.part] & (own == 0) & ~second, 1, own)
        rank = rank.index_copy(0, torch.cat([rows[place] for place in places]), own)
    return rank


def _of_tiles(quota: Quota, num_tiles: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Tokens that GSP thins out together, and how many of them it is to leave: a tile's.

    A tile of more than MAX_TOKENS is cut. One of which all tokens stay is left out.
    """
    for tile, can_be_kept in enumerate(quota.can_be_kept[:num_tiles]):
        own = can_be_kept.nonzero()[:, 0] + tile * len(can_be_kept)
        if len(own) > quota.each:
            lengths = even_shares(len(own), -(-len(own) // MAX_TOKENS))
            for part, share in zip(own.split(lengths), shares(quota.each, lengths), strict=True):
                yield part, max(1, share)


def _of_frames(quota: Quota, num_frames: int) -> Iterator[tuple[torch.Tensor, int]]:
    """The same of a video, all of whose tokens can be kept: those of neighbouring frames."""
    size = quota.can_be_kept.shape[1]
    if size > quota.each:
        longest = min(WINDOW_FRAMES, MAX_TOKENS // size)
        for window in windows_of_frames(num_frames * size, num_frames, longest):
            yield window, quota.each * len(window) // size


def _lowest(rank: torch.Tensor, count: int) -> torch.Tensor:
    """The tokens [tiles, count] of lowest rank of every tile, ascending, numbered through all.

    Args:
        rank: [tiles, P] int64, 0 to 2; of those that it does not decide on evenly spaced ones stay.
    """
    num_tiles, size = rank.shape
    stays, wanted = torch.zeros_like(rank, dtype=torch.bool), torch.full_like(rank[:, :1], count)
    for own in (rank == each for each in range(3)):
        total = own.sum(1, keepdim=True)
        taken = torch.minimum(total, wanted)
        place = own.cumsum(1) - 1
        stays |= own & (place * taken % total.clamp(min=1) < taken)
        wanted = wanted - taken
    places = (~stays).long().sort(dim=1, stable=True).indices[:, :count]
    return places + torch.arange(num_tiles, device=rank.device)[:, None] * size
