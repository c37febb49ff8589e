"""What every patch shows: the dense supervision that makes a small training budget enough."""

from dataclasses import dataclass

import numpy as np

from ..scenes.questions import SIDE_MARGIN
from ..scenes.scene import Scene
from ..scenes.tiling import GRID, PATCH, PATCHES, cut, patch_of
from ..scenes.words import COLORS, NAMES

NOTHING = -1
UNSURE = -2
"""A patch that shows too little of a thing to be judged by: no loss there."""
MIN_PIXELS = 12
COLOR_INDEX = {color: index for index, color in enumerate(COLORS)}
NAME_INDEX = {name: index for index, name in enumerate(NAMES)}


@dataclass(frozen=True)
class PatchLabels:
    """Labels of P = tiles * PATCHES patches, int64 [P]; where no thing is, NOTHING or UNSURE."""

    thing: np.ndarray
    color: np.ndarray
    name: np.ndarray
    horizontal: np.ndarray
    """0 left, 1 right, on things of the base tile that are outside the margin; else NOTHING."""
    vertical: np.ndarray
    centre: np.ndarray
    """1 on the middle of each thing, once in the base tile and once in another; else 0."""


def labels_of(scene: Scene, mask: np.ndarray) -> PatchLabels:
    """Return the labels of a scene's patches.

    Args:
        scene: what the picture shows.
        mask: [height, width] uint8 from pictures.draw.
    """
    thing = _things_shown(cut(mask, smooth=False), len(scene.things))
    centre = np.zeros_like(thing)
    for index, item in enumerate(scene.things):
        for patch in patch_of(scene.height, scene.width, item.x, item.y):
            thing[patch], centre[patch] = index, 1
    in_base = np.arange(len(thing)) < PATCHES
    colors = [COLOR_INDEX[item.color] for item in scene.things]
    names = [NAME_INDEX[item.name] for item in scene.things]
    horizontal = [_side(item.x / scene.width) for item in scene.things]
    vertical = [_side(item.y / scene.height) for item in scene.things]
    return PatchLabels(
        thing,
        _spread(colors, thing),
        _spread(names, thing),
        np.where(in_base, _spread(horizontal, thing), NOTHING),
        np.where(in_base, _spread(vertical, thing), NOTHING),
        centre,
    )


def _things_shown(tiles: np.ndarray, num_things: int) -> np.ndarray:
    """Return the thing that covers most of each patch, [P] int64."""
    num_patches = len(tiles) * PATCHES
    blocks = tiles.reshape(len(tiles), GRID, PATCH, GRID, PATCH).swapaxes(2, 3)
    pixels = blocks.reshape(num_patches, PATCH * PATCH).astype(np.int64)
    kinds = num_things + 1
    cells = pixels + np.arange(num_patches)[:, None] * kinds
    counts = np.bincount(cells.ravel(), minlength=num_patches * kinds).reshape(num_patches, kinds)
    shown = counts[:, 1:]
    return np.where(
        shown.max(1) >= MIN_PIXELS, shown.argmax(1), np.where(shown.any(1), UNSURE, NOTHING)
    )


def _side(place: float) -> int:
    """Return 0 for the first half, 1 for the second, NOTHING near the middle."""
    return NOTHING if abs(place - 0.5) <= SIDE_MARGIN else int(place > 0.5)


def _spread(values: list[int], thing: np.ndarray) -> np.ndarray:
    """Give each patch the value of its thing; patches without one keep NOTHING or UNSURE."""
    return np.where(thing >= 0, np.asarray(values)[thing.clip(0)], thing)
