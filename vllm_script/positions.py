"""Positions in three dimensions: a token that stays keeps the coordinates it had in the whole item.

The text behind an item starts where it would without pruning, so only the item's own tokens depend
on which of them stay. What is not known when vLLM lays out a prompt is filled in when its rows are
at hand: every row carries its coordinates in channels of its own, behind its values.

Coordinates are [3, rows]: time, height and width, counted from the item's first token. A run is a
stretch of placeholders without other tokens between them: an image, a video or a frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from .budget import even_shares

NUM_CHANNELS = 8
"""Time, height, width and place in the run, each as two bytes: any float type can hold them."""

IN_PLACE = 0xFF
"""Value of all channels in a row whose item is left whole: its position is right already."""

POSITIONS_PER_TOKEN = 4
"""vLLM makes room for this many times as many positions as tokens."""


class Run(NamedTuple):
    """A run of placeholders in a prompt."""

    offset: int
    """Place of the run's first token in the prompt."""
    length: int
    """Placeholders, fewer than rows where it is pruned."""
    coordinates: np.ndarray
    """[3, rows] of all rows before pruning."""


def grid_coordinates(frames: int, height: int, width: int, seconds: float = 1.0) -> np.ndarray:
    """Coordinates [3, frames * height * width] of a grid of visual tokens.

    Args:
        seconds: positions between a frame and the next; fractions are cut off, as vLLM does.
    """
    grid = np.indices((frames, height, width))
    if seconds != 1.0:
        grid[0] = (grid[0] * seconds).astype(np.int64)
    return grid.reshape(3, -1)


def fewest_rows(coordinates: np.ndarray) -> int:
    """Rows that must stay of a run, so that positions do not outgrow vLLM's table of them."""
    return math.ceil(_extent(coordinates) / POSITIONS_PER_TOKEN)


def prompt_positions(num_tokens: int, runs: Sequence[Run]) -> tuple[torch.Tensor, int]:
    """Positions of a prompt before its rows are known.

    Right for text and for whole items; the tokens of a pruned run get stand-ins.

    Returns:
        positions [3, num_tokens] int64, and what to add to the place of a token generated later.
    """
    parts, start, position = [], 0, 0
    for run in runs:
        parts.append(_text(run.offset - start, position))
        position += run.offset - start
        parts.append(run.coordinates[:, : run.length] + position)
        position += _extent(run.coordinates)
        start = run.offset + run.length
    parts.append(_text(num_tokens - start, position))
    position += num_tokens - start
    return torch.from_numpy(np.concatenate(parts, axis=1)), position - num_tokens


def coordinate_channels(coordinates: Sequence[np.ndarray]) -> torch.Tensor:
    """Return the coordinates of an item's rows before pruning as bytes, [rows, 6] uint8.

    Args:
        coordinates: [3, rows] of each of the item's runs.
    """
    return _as_bytes(np.concatenate(list(coordinates), axis=1).T)


def place_channels(num_runs: int, count: int) -> torch.Tensor:
    """Last channels, [count, 2] uint8, of rows that stay, shared out evenly among the runs."""
    places = [np.arange(share) for share in even_shares(count, num_runs)]
    return _as_bytes(np.concatenate(places)[:, None])


def place_rows(
    positions: torch.Tensor, is_placeholder: torch.Tensor, channels: torch.Tensor, computed: int
) -> torch.Tensor:
    """Positions of a prompt with the coordinates of some rows filled in.

    Gives the same however a prompt is cut into steps, and again when it is repeated.

    Args:
        positions: [3, tokens] int64.
        is_placeholder: [tokens] bool.
        channels: [R, NUM_CHANNELS] of the rows of the placeholders from `computed` on. Of those
            of pruned runs, there is text before each.
    """
    is_pruned = (channels != IN_PLACE).any(1)
    channels = channels.long()
    values = channels[:, 0::2] * 256 + channels[:, 1::2]  # [R, 4]
    time_height_width, place = values[:, :3].T, values[:, 3]
    # The first R placeholders: the host knows how many they are, and need not wait for a count.
    others_last = (~is_placeholder[computed:]).byte().argsort(stable=True)
    slots = others_last[: len(channels)] + computed
    before = (slots - place - 1).clamp(min=0)  # of a row whose item is whole, any token
    filled_in = time_height_width + positions[0].index_select(0, before) + 1
    own = positions.index_select(1, slots)
    return positions.index_copy(1, slots, torch.where(is_pruned, filled_in, own))


def _text(length: int, position: int) -> np.ndarray:
    return np.broadcast_to(np.arange(length), (3, length)) + position


def _extent(coordinates: np.ndarray) -> int:
    """Positions that an item takes."""
    return int(coordinates.max()) + 1


def _as_bytes(values: np.ndarray) -> torch.Tensor:
    """[rows, 2 * columns] uint8: high and low byte of each value below 2**16."""
    pairs = np.stack([values >> 8, values & 0xFF], axis=-1)
    return torch.from_numpy(pairs.reshape(len(values), -1).astype(np.uint8))
