"""What selection reads of an image: the vision tower's states, and the features made of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .layout import Layout


@dataclass(frozen=True)
class EncodedImage:
    """One image before pruning: every patch of every tile, in encoder order."""

    states: torch.Tensor
    """[tiles * patches, H] what the vision tower returns."""
    features: torch.Tensor
    """[tiles * patches, D] the same, projected for the language model."""
    layout: Layout
