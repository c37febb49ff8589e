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
from typing import Any

import torch

from ..kernels import Backend, to_device
from ..layout import Layout
from ..pruning.thinning import Quota, most_distinct_patches, survivors
from .encoded_image import Survivors

Take = Callable[[torch.Tensor], torch.Tensor]
"""From the states of all patches to those of the survivors."""

Arguments = Callable[[int, Mapping[str, Any]], Mapping[str, Any]]
"""From the number of a block and its keyword arguments for all patches to those for survivors."""


class Thinning:
    """How the vision tower is thinned for one item, and what that leaves.

    Args:
        layout: of the item.
        quota: what every tile or frame keeps.
        num_early_blocks: blocks that see all patches.
        backend: of the operations of kernels/.
    """

    def __init__(
        self, layout: Layout, quota: Quota, num_early_blocks: int, backend: Backend
    ) -> None:
        self.layout = layout
        self.quota = quota
        self.num_early_blocks = num_early_blocks
        self._backend = backend
        self._chosen: torch.Tensor | None = None

    def choose(self, states: torch.Tensor) -> torch.Tensor:
        """Return the visual tokens that stay, by the states behind the early blocks.

        Args:
            states: [tiles or frames, P, patches of a token, D].

        Returns:
            tokens [tiles or frames, S] int64, ascending, numbered through all tiles.
        """
        tokens = most_distinct_patches(states, self._backend)
        self._chosen = survivors(tokens, self.quota, self._backend)
        return self._chosen

    @property
    def survivors(self) -> Survivors:
        """What the tower has left, once it has run."""
        assert self._chosen is not None, "read after the tower has run"
        return Survivors(self._chosen.flatten(), self.quota.num_left)


def survivors_of(thinning: Thinning | None) -> Survivors | None:
    """What a tower has left that ran with this thinning; None: all of it."""
    return None if thinning is None else thinning.survivors


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


def take_of_tiles(thinning: Thinning, cells: torch.Tensor, first: int) -> Take:
    """Return what takes the survivors of states [tiles, first + patches, H], all tiles together.


    Args:
        cells: [visual tokens of a tile, patches of a visual token] int64 on the CPU: the places of
            its patches in a tile.
        first: states before those of the patches, which stay, such as a class token.
    """

    def take(states: torch.Tensor) -> torch.Tensor:
        tiles, length, width = states.shape
        patches = to_device(cells.flatten() + first, states.device)
        of_tokens = states.index_select(1, patches).view(tiles, *cells.shape, width)
        starts = torch.arange(tiles, device=states.device)[:, None]
        own = thinning.choose(of_tokens) - starts * len(cells)
        places = patches.view(cells.shape)[own].flatten(1)
        before = torch.arange(first, device=states.device).expand(tiles, first)
        rows = torch.cat([before, places], dim=1) + starts * length
        return states.flatten(0, 1).index_select(0, rows.flatten()).view(tiles, -1, width)

    return take
