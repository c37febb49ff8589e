"""How many crops LLaVA-NeXT makes of a picture.

Published budgets for LLaVA-NeXT are a share of every crop's 576 tokens: 640 tokens are 128 of each
of five crops, and a picture that makes three crops keeps 384.
"""

from __future__ import annotations

from transformers.image_processing_utils import select_best_resolution

CROP = 336
"""Pixels that a crop is wide and high."""
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
"""(height, width) that LLaVA-NeXT (1.6) fits pictures into: `image_grid_pinpoints`."""


def num_crops(width: int, height: int) -> int:
    """Crops of a picture of this size in pixels, with the one of the whole picture."""
    best_height, best_width = select_best_resolution((height, width), PINPOINTS)
    return int(best_height // CROP) * int(best_width // CROP) + 1
