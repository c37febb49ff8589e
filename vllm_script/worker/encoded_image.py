"""What selection reads of an image or video: its tower's states, and the features made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..kernels import to_device
from ..layout import Layout


class Survivors(NamedTuple):
    """What a thinned vision tower leaves of an item."""

    patches: torch.Tensor
    """[R] int64, ascending, on the features' device: the patch of each row."""
    num_candidates: int
    """How many of them can be kept; it follows from the item's shape."""


@dataclass(frozen=True)
class EncodedImage:
    """One image or video before selection: R patches in encoder order, those of all tiles, or where
    the vision tower was thinned the survivors."""

    states: torch.Tensor
    """[R, H] what CLIP scores of the tower; H is 0 where the tower is not CLIP's."""
    features: torch.Tensor
    """[R, D] patches as the projector returns them, for the language model."""
    layout: Layout
    survivors: Survivors | None = None
    """None where the vision tower was whole."""

    @classmethod
    def without_states(
        cls, features: torch.Tensor, layout: Layout, survivors: Survivors | None = None
    ) -> EncodedImage:
        """Return an image whose tower is not CLIP's, so that no states are kept of it."""
        return cls(features.new_empty(len(features), 0), features, layout, survivors)

    @property
    def candidates(self) -> torch.Tensor:
        """[P] int64 on the features' device: patches that can be kept, in reading order."""
        patches = to_device(self.layout.candidates, self.features.device)
        if self.survivors is None:
            return patches
        left, num_candidates = self.survivors
        is_gone = left[self.rows_of(patches).clamp(max=len(left) - 1)] != patches
        # Their number is known, so that the host need not wait for the device to count.
        return patches[is_gone.long().sort(stable=True).indices[:num_candidates]]

    def rows_of(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the rows of states and features that are these patches.

        Args:
            patches: [K] int64 on the features' device, as `Layout.rows` numbers them; of a thinned
                tower survivors.

        Returns:
            rows [K] int64.
        """
        if self.survivors is None:
            return patches
        return torch.searchsorted(self.survivors.patches, patches)
