"""Where on the image each encoder patch lies: boxes [P, 4] in pixels (left, top, right, bottom).

For people who look at selections; pruning itself needs no geometry. Padding is clipped away, so the
box of a patch that shows only padding is empty.
"""

from __future__ import annotations

import torch
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution


def whole_boxes(grid: int, height: int, width: int) -> torch.Tensor:
    """Boxes [grid * grid, 4] where the image is squeezed into one tile of grid x grid patches."""
    return _cells(grid, grid) * torch.tensor([width, height, width, height]) / grid


def cropped_boxes(grid: int, height: int, width: int) -> torch.Tensor:
    """Boxes [grid * grid, 4] where one tile shows the largest square in the image's middle."""
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return _cells(grid, grid) * (side / grid) + torch.tensor([left, top, left, top])


def anyres_boxes(
    tile: int, patch: int, pinpoints: tuple[tuple[int, ...], ...], height: int, width: int
) -> torch.Tensor:
    """Boxes [tiles * patches, 4] of a LLaVA-NeXT image: base tile, then the padded grid of tiles.

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
    down, across = full[0] // tile, full[1] // tile
    cells = _cells(down * grid, across * grid) * patch  # on the padded canvas
    top, left = (full[0] - fit[0]) // 2, (full[1] - fit[1]) // 2
    boxes = cells - torch.tensor([left, top, left, top])
    boxes = boxes * (torch.tensor([width, height] * 2) / torch.tensor([fit[1], fit[0]] * 2))
    limits = torch.tensor([width, height, width, height])
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    by_tile = boxes.view(down, grid, across, grid, 4).transpose(1, 2).reshape(-1, 4)
    return torch.cat([whole_boxes(grid, height, width), by_tile])


def _cells(rows: int, columns: int) -> torch.Tensor:
    """Boxes [rows * columns, 4] of unit cells, row by row, float64."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([x, y, x + 1, y + 1], -1).view(-1, 4).double()
