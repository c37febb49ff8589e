"""What selection reads of an image or video: its tower's states, and the features made of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from ..kernels import to_device
from ..layout import Layout


@dataclass(frozen=True)
class EncodedImage:
    """One image or video before selection: the patches of every tile, in encoder order.

    They are all of them, or where the tower was thinned those that its layout names `survivors`.
    """

    states: torch.Tensor
    """[tiles * patches, H] what CLIP scores of the tower; H is 0 where the tower is not CLIP's."""
    features: torch.Tensor
    """[tiles * patches, D] patches as the projector returns them, for the language model."""
    layout: Layout

    @classmethod
    def without_states(cls, features: torch.Tensor, layout: Layout) -> EncodedImage:
        """Return an image whose tower is not CLIP's, so that no states are kept of it."""
        return cls(features.new_empty(len(features), 0), features, layout)

    def rows_of(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the rows of states and features that are these patches.

        Args:
            patches: [K] int64 on the CPU or the features' device, as `Layout.rows` numbers them;
                of a thinned tower they are survivors.

        Returns:
            rows [K] int64, on the device of `patches`.
        """
        left = self.layout.survivors
        if left is None:
            return patches
        return torch.searchsorted(left.flatten() if patches.is_cpu else self._survivors, patches)

    @cached_property
    def _survivors(self) -> torch.Tensor:
        """The layout's, on the features' device: copied once, for every question."""
        assert self.layout.survivors is not None, "asked of a thinned tower"
        return to_device(self.layout.survivors.flatten(), self.features.device)
