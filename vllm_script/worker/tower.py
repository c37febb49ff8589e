"""A vision tower that drops patches after an early block: vLLM's own, on shorter sequences.

The tower's forward, blocks and weights are vLLM's, so tensor parallelism, quantisation and every
attention backend are, too. What is ours stands between the blocks: before the first of the later
ones the states of the survivors are taken, and what a block is told of its sequences is theirs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import torch

from ..kernels import to_device
from ..layout import Layout

Take = Callable[[torch.Tensor], torch.Tensor]
"""From the states of all patches to those of the survivors."""

Arguments = Callable[[int, Mapping[str, Any]], Mapping[str, Any]]
"""From the number of a block and its keyword arguments for all patches to those for survivors."""


class Thinning(NamedTuple):
    """How the vision tower is thinned for one item."""

    layout: Layout
    """Layout of the item, with the survivors."""
    num_early_blocks: int
    """Blocks that see all patches."""
    num_dropped: int
    """Visual tokens that could be kept of the whole item, and are not left."""

    @property
    def survivors(self) -> torch.Tensor:
        """Patches [tiles or frames, S] that are left, as `Layout.survivors`."""
        assert self.layout.survivors is not None, "the layout of a thinned tower names survivors"
        return self.layout.survivors


def num_early_blocks_of(share: float, depth: int) -> int:
    """Blocks that see all patches, of a tower of `depth` blocks: one at least, and not all."""
    return min(max(1, round(share * depth)), depth - 1)


def thinned_tower(
    tower: Any,
    path: str,
    num_early_blocks: int,
    take: Take,
    arguments: Arguments = lambda number, kwargs: kwargs,
) -> Any:
    """Return a tower with the weights of another, whose later blocks see the survivors alone.

    Args:
        tower: vLLM's module; it stays as it is.
        path: where its blocks are, such as "vision_model.encoder.layers".
        num_early_blocks: those that see all patches.
    """
    blocks = list(attrgetter(path)(tower))
    assert num_early_blocks < len(blocks), "the family knows how many blocks there are"

    def run(number: int, states: torch.Tensor, **kwargs: Any) -> Any:
        if number == num_early_blocks:
            states = take(states)
        return blocks[number](states, **arguments(number, kwargs))

    later = [partial(run, number) for number in range(num_early_blocks, len(blocks))]
    return with_modules(tower, path, [*blocks[:num_early_blocks], *later])


def with_modules(module: Any, path: str, others: Sequence[Callable[..., Any]]) -> Any:
    """Return a shallow copy of a module with others in place of its list of modules at `path`."""
    name, _, below = path.partition(".")
    changed = with_modules(getattr(module, name), below, others) if below else others
    view = copy.copy(module)
    view._modules = {**module._modules, name: changed}
    return view


def take_of_tiles(survivors: torch.Tensor, cells: torch.Tensor, first: int) -> Take:
    """Return what takes the survivors of states [tiles, first + patches, H], all tiles together.

    Args:
        survivors: visual tokens [tiles, S] that are left, numbered through all tiles; there may be
            tiles behind the last one of the states.
        cells: [visual tokens of a tile, patches of a visual token] int64 on the CPU: the places of
            its patches in a tile.
        first: states before those of the patches, which stay, such as a class token.
    """

    def take(states: torch.Tensor) -> torch.Tensor:
        tiles, length, width = states.shape
        starts = torch.arange(tiles)[:, None]
        places = cells[survivors[:tiles] - starts * len(cells)].flatten(1) + first
        places = torch.cat([torch.arange(first).expand(tiles, first), places], dim=1)
        rows = to_device((places + starts * length).flatten(), states.device)
        return states.flatten(0, 1).index_select(0, rows).view(tiles, -1, width)

    return take
