"""What selection reads of an image or video: its tower's states, and the features made of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..layout import Layout


@dataclass(frozen=True)
class EncodedImage:
    """One image or video before pruning: every patch of every tile, in encoder order."""

    states: torch.Tensor
    """[tiles * patches, H] what CLIP scores of the tower; H is 0 where the tower is not CLIP's."""
    features: torch.Tensor
    """[tiles * patches, D] patches as the projector returns them, for the language model."""
    layout: Layout

    @classmethod
    def without_states(cls, features: torch.Tensor, layout: Layout) -> EncodedImage:
        """Return an image whose tower is not CLIP's, so that no states are kept of it."""
        return cls(features.new_empty(len(features), 0), features, layout)
