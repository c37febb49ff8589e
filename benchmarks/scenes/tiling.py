"""A picture as LLaVA-NeXT's image processor cuts it, and where each piece lands in the prompt.

tile: one tower input of TILE x TILE pixels. The base tile comes first, the whole picture squeezed
into it; then the picture scaled into a pinpoint, black at the border, cut in reading order.
row: one visual token of the prompt: the base tile's patches, then the other tiles' patches as one
grid without the black border, each line of it closed by a newline row.
"""

from typing import Any

import numpy as np
from PIL import Image

TILE = 112
PATCH = 8
GRID = TILE // PATCH
PATCHES = GRID * GRID
PINPOINTS = ((112, 224), (224, 112), (224, 224))
"""Height and width."""
MAX_TILES = 5
NEWLINE = -1
"""Row index that stands for the newline vector."""


def cut(picture: np.ndarray, smooth: bool = True) -> np.ndarray:
    """Return the tiles of a picture.

    Args:
        picture: [height, width, 3] uint8, or [height, width] uint8 for a mask.
        smooth: bicubic as the processor; False takes the nearest pixel, which a mask needs.

    Returns:
        [tiles, TILE, TILE, 3] uint8, or without the last axis.
    """
    resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    height, width = picture.shape[:2]
    (full_height, full_width), (fit_height, fit_width), (top, left) = placement(height, width)
    image = Image.fromarray(picture)
    canvas = np.zeros((full_height, full_width, *picture.shape[2:]), np.uint8)
    fitted = image.resize((fit_width, fit_height), resample)
    canvas[top : top + fit_height, left : left + fit_width] = np.asarray(fitted)
    tiles = [np.asarray(image.resize((TILE, TILE), resample))]
    for y in range(0, full_height, TILE):
        tiles += [canvas[y : y + TILE, x : x + TILE] for x in range(0, full_width, TILE)]
    return np.stack(tiles)


def placement(height: int, width: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return the pinpoint, the picture's size scaled into it, and its top left corner there."""
    full_height, full_width = _best_pinpoint(height, width)
    scale_x, scale_y = full_width / width, full_height / height
    if scale_x < scale_y:
        fit_width, fit_height = full_width, min(int(np.ceil(height * scale_x)), full_height)
    else:
        fit_width, fit_height = min(int(np.ceil(width * scale_y)), full_width), full_height
    corner = (full_height - fit_height) // 2, (full_width - fit_width) // 2
    return (full_height, full_width), (fit_height, fit_width), corner


def rows_of(height: int, width: int) -> np.ndarray:
    """Return the index of the patch, counted over all tiles, that each row of the prompt holds.

    Returns:
        [rows] int64; NEWLINE where a line of the grid ends.
    """
    (full_height, full_width), _, _ = placement(height, width)
    across, down = full_width // TILE, full_height // TILE
    lines, columns = down * GRID, across * GRID
    y, x = np.divmod(np.arange(lines * columns).reshape(lines, columns), columns)
    grid = (1 + y // GRID * across + x // GRID) * PATCHES + y % GRID * GRID + x % GRID
    grid = _without_border(grid, height, width)
    newline = np.full((len(grid), 1), NEWLINE)
    return np.concatenate([np.arange(PATCHES), np.hstack([grid, newline]).ravel()])


def patch_of(height: int, width: int, x: float, y: float) -> tuple[int, int]:
    """Return which patch shows a point of the picture: in the base tile, and in the other tiles."""
    base = int(y * GRID / height) * GRID + int(x * GRID / width)
    (_, full_width), (fit_height, fit_width), (top, left) = placement(height, width)
    line = int((top + y * fit_height / height) / PATCH)
    column = int((left + x * fit_width / width) / PATCH)
    tile = 1 + line // GRID * (full_width // TILE) + column // GRID
    return base, tile * PATCHES + line % GRID * GRID + column % GRID


def image_processor_settings() -> dict[str, Any]:
    """Return the settings with which LLaVA-NeXT's image processors cut as `cut` does."""
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": TILE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": TILE, "width": TILE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "do_pad": True,
        "image_grid_pinpoints": [list(pinpoint) for pinpoint in PINPOINTS],
    }


def _best_pinpoint(height: int, width: int) -> tuple[int, int]:
    """Return the pinpoint that keeps most of the picture's pixels, and of those the smallest."""

    def merit(pinpoint: tuple[int, int]) -> tuple[int, int]:
        full_height, full_width = pinpoint
        scale = min(full_width / width, full_height / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - full_height * full_width

    return max(PINPOINTS, key=merit)


def _without_border(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut the lines or columns that show only the black border."""
    lines, columns = grid.shape
    if width / height > columns / lines:
        kept = int(round(height * (columns / width), 7))
        border = (lines - kept) // 2
        return grid[border : lines - border]
    kept = int(round(width * (lines / height), 7))
    border = (columns - kept) // 2
    return grid[:, border : columns - border]
