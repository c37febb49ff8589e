"""Where on the image each encoder patch lies: boxes [P, 4] in pixels (left, top, right, bottom).

For people who look at selections; pruning itself needs no geometry. Padding is clipped away, so the
box of a patch that shows only padding is empty.
"""

from __future__ import annotations

import math

import torch
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution

from ..layout import Layout

ONE_TILE = "the whole picture in one tile"
TILES = "the picture in tiles"


def whole_boxes(rows: int, columns: int, height: int, width: int) -> torch.Tensor:
    """Boxes [rows * columns, 4] where the image is squeezed into one tile of so many patches."""
    sides = torch.tensor([width, height] * 2) / torch.tensor([columns, rows] * 2)
    return _cells(rows, columns) * sides


def square_boxes(layout: Layout, height: int, width: int) -> torch.Tensor:
    """Boxes [patches of a frame, 4] where each frame of a video is squeezed into a square tile."""
    side = math.isqrt(layout.num_patches // layout.num_frames)
    return whole_boxes(side, side, height, width)


def tiled_boxes(grid: int, num_tiles: int, height: int, width: int) -> torch.Tensor:
    """Boxes [num_tiles * grid * grid, 4] where the image is squeezed into a rectangle of tiles.

    Of the rectangles of that many tiles it is the one whose shape is nearest to the image's.
    """
    shapes = [(n, num_tiles // n) for n in range(1, num_tiles + 1) if num_tiles % n == 0]
    down, across = min(shapes, key=lambda shape: abs(width / height - shape[1] / shape[0]))
    return _by_tile(whole_boxes(down * grid, across * grid, height, width), grid, down, across)


def strip_boxes(grid: int, num_strips: int, height: int, width: int) -> torch.Tensor:
    """Boxes [num_strips * grid * grid, 4] where the image is cut across its longer side.

    The strips are equally long in whole pixels, so that the last may be shorter; each is squeezed
    into one tile.
    """
    is_wide = width >= height
    length = math.ceil((width if is_wide else height) / num_strips)
    strips = []
    for start in range(0, num_strips * length, length):
        end = min(start + length, width if is_wide else height)
        left, top, right, bottom = (start, 0, end, height) if is_wide else (0, start, width, end)
        offset = torch.tensor([left, top, left, top])
        strips.append(whole_boxes(grid, grid, bottom - top, right - left) + offset)
    return torch.cat(strips)


def cropped_boxes(grid: int, height: int, width: int) -> torch.Tensor:
    """Boxes [grid * grid, 4] where one tile shows the largest square in the image's middle."""
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return _cells(grid, grid) * (side / grid) + torch.tensor([left, top, left, top])


def anyres_boxes(
    tile: int, patch: int, pinpoints: tuple[tuple[int, ...], ...], height: int, width: int
) -> torch.Tensor:
    """Boxes [tiles * patches, 4] of LLaVA-NeXT's padded grid of tiles.

    Args:
        tile, patch: sides of an encoder input and of a patch, in pixels.
        pinpoints: the anyres resolutions, (height, width) in pixels.
        height, width: of the image, in pixels.
    """
    grid = tile // patch
    full = select_best_resolution((height, width), list(pinpoints))
    fit = get_patch_output_size(
        torch.empty(3, height, width, device="meta"), full, "channels_first"
    )
    tiles = (full[0] // tile, full[1] // tile)
    corner = ((full[0] - fit[0]) // 2, (full[1] - fit[1]) // 2)
    return canvas_boxes(grid, patch, tiles, corner, fit, height, width)


def canvas_boxes(
    grid: int,
    patch: int,
    tiles: tuple[int, int],
    corner: tuple[int, int],
    fit: tuple[int, int],
    height: int,
    width: int,
) -> torch.Tensor:
    """Boxes [tiles * grid * grid, 4] where the image lies on a canvas that is cut into tiles.

    Args:
        grid: patches on a side of a tile.
        patch: side of a patch in pixels of the canvas.
        tiles: tiles in a column and in a row of the canvas.
        corner: pixels of the canvas above and to the left of the image.
        fit: height and width of the image on the canvas, in pixels.
        height, width: of the image itself, in pixels.
    """
    down, across = tiles
    top, left = corner
    boxes = _cells(down * grid, across * grid) * patch - torch.tensor([left, top, left, top])
    boxes = boxes * (torch.tensor([width, height] * 2) / torch.tensor([fit[1], fit[0]] * 2))
    limits = torch.tensor([width, height, width, height])
    return _by_tile(torch.minimum(boxes.clamp(min=0), limits), grid, down, across)


def _by_tile(boxes: torch.Tensor, grid: int, down: int, across: int) -> torch.Tensor:
    """Boxes of down x across tiles of grid x grid patches: from row by row to tile by tile."""
    return boxes.view(down, grid, across, grid, 4).transpose(1, 2).reshape(-1, 4)


def _cells(rows: int, columns: int) -> torch.Tensor:
    """Boxes [rows * columns, 4] of unit cells, row by row, float64."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([x, y, x + 1, y + 1], -1).view(-1, 4).double()
