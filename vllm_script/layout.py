"""Where each placeholder of an image or video comes from: the map from rows to encoder patches.

Selection and placeholder counts both use it. For LLaVA it is found by sending patch numbers instead
of features through the model's own merge, so it follows whatever vLLM does with tiles, unpadding
and newlines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from .budget import num_survivors
from .pruning.thinning import Quota


class Tiles(NamedTuple):
    """The tiles or frames of an item as its vision tower has them, in encoder order."""

    number: int
    """How many there are, at least as many as the item has."""
    size: int
    """Visual tokens of each."""


@dataclass(frozen=True)
class Layout:
    """The visual tokens of one item, as stock vLLM lays them out in reading order."""

    rows: torch.Tensor
    """[N] int64 on CPU: index of each row's patch in tiles x patches; -1 for a
    newline."""

    num_frames: int = 1
    """Frames of a video, or an image and its crops where each has a run of placeholders of its own;
    each with as many patches as the others."""

    even: bool = False
    """Whether every frame must keep the same part, because the prompt has a run for each."""

    minimum: int = 1
    """Fewest patches that may stay; see `fewest_rows` of positions.py."""

    columns: int = 0
    """Patches in a row, of an image or frame that is one grid whose shape does not follow from its
    size."""

    def quota(self, tiles: Tiles, tower_keep: float) -> Quota:
        """Return what every tile or frame keeps where the vision tower is thinned.

        Args:
            tower_keep: share of the visual tokens of each tile or frame that stays.
        """
        can_be_kept = torch.zeros(tiles.number * tiles.size, dtype=torch.bool)
        can_be_kept[self.candidates] = True
        each = num_survivors(tiles.size, tower_keep)
        return Quota(each, can_be_kept.view(tiles.number, tiles.size), self.num_frames > 1)

    @property
    def num_placeholders(self) -> int:
        """N, rows with newlines."""
        return len(self.rows)

    @property
    def num_patches(self) -> int:
        """P, rows that are patches."""
        return len(self.candidates)

    @property
    def counts(self) -> tuple[int, int, int]:
        """N, P and the fewest to keep: what the number of kept tokens depends on."""
        return self.num_placeholders, self.num_patches, self.minimum

    @property
    def candidates(self) -> torch.Tensor:
        """[P] int64: patch index of every row that can be kept, in reading order."""
        return self.rows[self.rows >= 0]
