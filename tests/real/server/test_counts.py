"""A pruned image costs exactly the tokens the formula says, whatever its shape."""

import math

import pytest

TILE, PATCHES = 84, 6  # of the tiny checkpoint: tile in pixels, patches along its side
GRIDS = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]  # (tiles down, tiles across)
RATIOS = [0.056, 0.11, 0.5, 0.99]
SIZES = [
    *((1, 1), (1, 20000), (20000, 1), (2, 3), (500, 3), (3, 500)),
    *((84, 84), (84, 168), (168, 84), (168, 168), (252, 84), (84, 252)),
    *((83, 85), (85, 83), (167, 169), (169, 167), (640, 480), (480, 640)),
    *((1024, 768), (1920, 1080), (336, 336), (672, 672), (1000, 300), (300, 1000)),
    *((37, 41), (100, 60), (60, 100), (127, 255), (255, 127), (99, 101)),
]


def patches_and_newlines(width, height):
    """LLaVA-NeXT's layout from its definition: base tile, then the unpadded grid."""

    def fit(grid):
        tall, wide = grid[0] * TILE, grid[1] * TILE
        scale = min(wide / width, tall / height)
        used = min(int(width * scale) * int(height * scale), width * height)
        return used, -(tall * wide - used)

    down, across = max(GRIDS, key=fit)
    rows, columns = down * PATCHES, across * PATCHES
    if width / height > columns / rows:
        rows -= 2 * ((rows - int(round(height * columns / width, 7))) // 2)
    else:
        columns -= 2 * ((columns - int(round(width * rows / height, 7))) // 2)
    return PATCHES**2 + rows * columns, rows


@pytest.mark.parametrize("width, height", SIZES)
def test_prompt_tokens(width, height, pruning_server, stock_server, picture, ask):
    parts = [picture(width, height), {"type": "text", "text": "What is shown?"}]
    num_patches, num_newlines = patches_and_newlines(width, height)
    total = num_patches + num_newlines
    whole = ask(stock_server, parts, max_tokens=1).prompt_tokens
    for ratio in RATIOS:
        kept = min(max(1, math.floor(ratio * total + 0.5)), num_patches)
        pruned = ask(pruning_server, parts, {"keep_ratio": ratio}, max_tokens=1).prompt_tokens
        assert whole - pruned == total - kept, f"keep_ratio {ratio}"
