"""What of a photograph each visual token shows: its segments, and the objects one can ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from .folder import Photo

FINE = 16
"""Pixels of the mask along a token's side, from which its shares are counted."""
HALF = 0.5
"""A token belongs to what covers at least that share of it."""
LEAST_TOKENS, LARGEST_SHARE = 2, 0.6
"""What is smaller is not seen by the grid; what is larger is kept by any selection."""
SIZES = {"small": 0.02, "medium": 0.1, "large": 1.0}
"""Size classes, by the share of the photograph's tokens up to which a class goes."""


@dataclass(frozen=True)
class Region:
    """A segment of a photograph, or all segments of one category."""

    category: str
    is_thing: bool
    tokens: torch.Tensor
    """[N] bool: which tokens belong to it."""

    @property
    def size(self) -> str:
        """Its size class."""
        return size_of(int(self.tokens.sum()), len(self.tokens))


def size_of(tokens: int, of: int) -> str:
    """Size class of so many tokens of so many."""
    return next(name for name, most in SIZES.items() if tokens <= most * of)


def segments_of(photo: Photo, num_tokens: int) -> list[Region]:
    """The segments with at least one token of a square grid."""
    found = [
        Region(segment.category, segment.is_thing, cover >= HALF)
        for segment, cover in zip(photo.segments, _covers(photo, num_tokens), strict=True)
    ]
    return [region for region in found if region.tokens.any()]


def askable(photo: Photo, num_tokens: int) -> list[Region]:
    """What one can ask for by the name of its category: all of it, neither tiny nor most of all."""
    covers: dict[tuple[str, bool], torch.Tensor] = {}
    for segment, cover in zip(photo.segments, _covers(photo, num_tokens), strict=True):
        key = segment.category, segment.is_thing
        covers[key] = covers.get(key, 0) + cover
    regions = [Region(*key, cover >= HALF) for key, cover in covers.items()]
    return [
        region
        for region in regions
        if LEAST_TOKENS <= region.tokens.sum() <= LARGEST_SHARE * num_tokens
    ]


def _covers(photo: Photo, num_tokens: int) -> list[torch.Tensor]:
    """Of each segment the share [N] of every token that it covers; tokens row by row."""
    side = math.isqrt(num_tokens)
    mask = Image.fromarray(photo.mask().astype(np.int32))
    squeezed = mask.resize((side * FINE,) * 2, Image.Resampling.NEAREST)
    pixels = torch.from_numpy(np.array(squeezed)).view(side, FINE, side, FINE)
    pixels = pixels.transpose(1, 2).reshape(num_tokens, FINE * FINE)
    return [(pixels == segment.number).float().mean(1) for segment in photo.segments]
