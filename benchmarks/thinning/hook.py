"""Drop patches after a layer of any tower: a hook before the next layer, which sees the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from vllm_script.budget import num_survivors

Choose = Callable[[torch.Tensor], Sequence[torch.Tensor]]
"""States [N, D] of one picture's patches -> the indices [count] that stay, in several ways."""


DEPTHS = (1 / 6, 1 / 4, 1 / 3, 1 / 2)
"""Shares of a tower's layers after which patches are dropped, where nobody says otherwise."""
KEEPS = (0.75, 0.5, 0.25)
"""Shares of the patches that stay."""


class Cut(NamedTuple):
    """Where patches are dropped, and how many stay."""

    after: int
    """Layers that see all patches."""
    keep: float
    """Share of the patches that stay."""

    def count(self, num_patches: int) -> int:
        """How many patches stay of so many."""
        return num_survivors(num_patches, self.keep)

    def __str__(self) -> str:
        return f"{self.keep:g} after layer {self.after}"


@contextmanager
def thinned_after(
    blocks: nn.ModuleList, after: int, num_patches: int, choose: Choose
) -> Iterator[list[Sequence[torch.Tensor]]]:
    """Drop patches after the first `after` layers, for the length of a `with` block.

    The tower's output then has a picture for each way of each picture, all ways of the first one
    first. What stands before the patches, such as a class token, stays.

    Args:
        blocks: all layers of the tower. Each takes the states [B, L, D] first.
        after: layers that see all patches, in [1, len(blocks)).
        num_patches: patches N of a picture, the last rows of its states.
        choose: says which patches stay; all ways keep the same number.

    Yields:
        a list that gets, of each picture, what `choose` has said.
    """
    chosen: list[Sequence[torch.Tensor]] = []

    def thin(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        states, *others = args
        first = states.shape[1] - num_patches
        thinned = []
        for own in states:
            chosen.append(choose(own[first:]))
            thinned += [own[torch.cat([torch.arange(first), first + kept])] for kept in chosen[-1]]
        return torch.stack(thinned), *others

    handle = blocks[after].register_forward_pre_hook(thin)
    try:
        yield chosen
    finally:
        handle.remove()
