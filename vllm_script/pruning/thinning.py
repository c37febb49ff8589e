"""Which places of a grid stay where a vision tower is thinned: evenly spaced ones.

Half of a grid is a checkerboard. The tiles or frames that follow one another have it in turns, so
that what stands still in a video has each of its places in one of two frames.
"""

from __future__ import annotations

from functools import lru_cache

import torch


@lru_cache(maxsize=256)
def survivors(frames: int, rows: int, columns: int, count: int) -> torch.Tensor:
    """Return the places that stay, the same for all pictures of a shape.

    Row after row is read, every second one from its end, and of these places evenly spaced ones
    stay: place k where k * count, modulo the places of a frame, is less than count. In every second
    frame the sum begins at half a frame.

    Args:
        frames: tiles or frames, each of them a grid.
        rows, columns: of a grid.
        count: places that stay of each grid, in [1, rows * columns].

    Returns:
        places [frames, count] int64 on the CPU, ascending in each frame, numbered through all
        frames in reading order. It is shared between calls: do not write to it.
    """
    size = rows * columns
    order = torch.arange(size).view(rows, columns)
    order[1::2] = order[1::2].flip(1)
    starts = torch.arange(frames)[:, None] % 2 * (size // 2)
    stays = (order.flatten() * count + starts) % size < count
    return stays.flatten().nonzero().view(frames, count)
