"""Which patches stay where a tower drops the others after one of its layers.

Each function of SCORES is called with the patches' states [N, D] float32 of one square picture, row
by row, and with how many stay. It returns their indices [count] int64, ascending. None reads the
question.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from vllm_script.kernels import inverse_norms, unit_rows
from vllm_script.pruning import PruningParams, run_mode
from vllm_script.pruning.thinning import Quota, most_distinct_patches, survivors

from .novelty import add_novel

Score = Callable[[torch.Tensor, int], torch.Tensor]

GROUP = 2
"""Patches along the side of a group that Qwen's and InternVL's towers merge into one token."""


def _by_mode(states: torch.Tensor, count: int, *, mode: str, **params: Any) -> torch.Tensor:
    """What a mode of the selection keeps without a question."""
    return run_mode(states, count, None, mode, PruningParams(**params))


def _first(order: torch.Tensor, count: int) -> torch.Tensor:
    """The patches with the lowest values [N]; of equal ones those that come first."""
    return order.argsort(stable=True)[:count].sort().values


def scattered(states: torch.Tensor, count: int) -> torch.Tensor:
    """Even spacing in both directions: the first in the order of ordered dithering.

    A half is a chessboard, a quarter every second patch of every second row. The order is that of
    Bayer's matrix: of a patch at row y and column x it is the number whose bits, from the most
    significant, are the lowest bit of x ^ y, the lowest of y, the next of x ^ y, and so on.
    """
    side = math.isqrt(len(states))
    y, x = torch.arange(side)[:, None], torch.arange(side)[None]
    order = torch.zeros(side, side, dtype=torch.int64)
    for bit in range(side.bit_length()):
        order = (order << 2) | (((x ^ y) >> bit & 1) << 1) | (y >> bit & 1)
    return _first(order.flatten(), count)


def _cosines(states: torch.Tensor) -> torch.Tensor:
    """Cosines [N, N] of states [N, D]."""
    unit = unit_rows(states, inverse_norms(states))
    return unit @ unit.T


def reduced(states: torch.Tensor, count: int) -> torch.Tensor:
    """What the server leaves: GSP's rounds, down to the count."""
    return survivors(
        states[None], Quota(count, torch.ones(1, len(states), dtype=torch.bool), False)
    )[0]


def scattered_and_novel(states: torch.Tensor, count: int, *, part: float) -> torch.Tensor:
    """A part of them scattered, and those least like the nearest of these."""
    return add_novel(states, scattered(states, math.ceil(part * count)), count)


def scattered_and_farthest(states: torch.Tensor, count: int, *, part: float) -> torch.Tensor:
    """A part of them scattered, and then one by one the least like the nearest that stays."""
    spaced = scattered(states, math.ceil(part * count))
    cosines = _cosines(states)
    stays = torch.zeros(len(states), dtype=torch.bool)
    stays[spaced] = True
    nearest = cosines[:, spaced].amax(1)
    for _ in range(count - len(spaced)):
        pick = int(nearest.masked_fill(stays, math.inf).argmin())
        stays[pick] = True
        nearest = torch.maximum(nearest, cosines[pick])
    return stays.nonzero()[:, 0]


def degree(states: torch.Tensor, count: int) -> torch.Tensor:
    """Those with the fewest neighbours: patches whose cosine is tau above the mean, as GSP's."""
    cosines = _cosines(states)
    threshold = cosines[~torch.eye(len(cosines), dtype=torch.bool)].mean() + PruningParams().tau
    return _first((cosines >= threshold).sum(1), count)


def norm(states: torch.Tensor, count: int) -> torch.Tensor:
    """Those with the largest norms."""
    return _first(-states.norm(dim=1), count)


def by_oddest(states: torch.Tensor, count: int) -> torch.Tensor:
    """Whole groups as `in_groups` has them, of which GSP sees the most unusual patch each.

    So the server chooses visual tokens of several patches.
    """
    groups = _groups(len(states))
    kept = reduced(most_distinct_patches(states[groups][None])[0], count // groups.shape[1])
    return groups[kept].flatten().sort().values


def in_groups(states: torch.Tensor, count: int, *, score: Score) -> torch.Tensor:
    """Whole groups of 2x2 patches, as a tower merges them into one token, scored by their means.

    Where `count` is no number of whole groups fewer stay.
    """
    groups = _groups(len(states))
    kept = score(states[groups].mean(1), count // groups.shape[1])
    return groups[kept].flatten().sort().values


def _groups(num_patches: int) -> torch.Tensor:
    """Patches [groups, patches of a group] of a square picture."""
    side = math.isqrt(num_patches) // GROUP
    grid = torch.arange(num_patches).view(side, GROUP, side, GROUP)
    return grid.transpose(1, 2).reshape(side * side, GROUP * GROUP)


OF_PATCHES: dict[str, Score] = {
    "scattered": scattered,
    "every nth": partial(_by_mode, mode="uniform"),
    "random": partial(_by_mode, mode="random"),
    "degree": degree,
    "GSP": reduced,
    "farthest first": partial(_by_mode, mode="divprune"),
    "coverage": partial(_by_mode, mode="coverage"),
    "norm": norm,
    "1/2 scattered, rest novel": partial(scattered_and_novel, part=0.5),
    "3/4 scattered, rest novel": partial(scattered_and_novel, part=0.75),
    "1/2 scattered, rest farthest": partial(scattered_and_farthest, part=0.5),
}
"""Even spacing of three kinds, chance, what reads the states, and spacing with what reads them."""

IN_GROUPS: dict[str, Score] = {
    f"{name}, 2x2 groups": partial(in_groups, score=OF_PATCHES[name])
    for name in ("scattered", "GSP", "farthest first", "3/4 scattered, rest novel")
} | {"GSP of the oddest patch, 2x2 groups": by_oddest}
"""Some of these for towers whose tokens are groups of patches."""

SCORES = OF_PATCHES | IN_GROUPS
