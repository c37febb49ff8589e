"""A scene as pixels: textured grey, clutter, then the things."""

import numpy as np
from PIL import Image, ImageDraw

from .glyphs import mask_of
from .scene import Scene, Thing
from .words import COLORS

NOISE_SIDE = 512
_NOISE = (
    np.random.default_rng(20261123).normal(0, 1, (2, NOISE_SIDE, NOISE_SIDE)).astype(np.float32)
)
COLOR_JITTER = 8
SHADES = (0.88, 1.05)


def draw(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture of a scene and the mask of its things.

    Returns:
        picture: [height, width, 3] uint8.
        mask: [height, width] uint8, 0 on the background and i + 1 on thing i.
    """
    rng = np.random.default_rng((scene.seed, 1_000_000))
    picture = _background(rng, scene.width, scene.height)
    for thing in scene.things:
        box, cover = _placed(thing)
        paint = np.asarray(COLORS[thing.color]) + rng.uniform(-COLOR_JITTER, COLOR_JITTER, 3)
        grain = _grain(rng, thing.size, thing.size)[..., None] * rng.uniform(2, 9)
        paint = paint.astype(np.float32) * np.float32(rng.uniform(*SHADES)) + grain
        picture[box] += cover[..., None] * (paint - picture[box])
    return picture.clip(0, 255).astype(np.uint8), mask_of_things(scene)


def mask_of_things(scene: Scene) -> np.ndarray:
    """Return `draw`'s mask without drawing."""
    mask = np.zeros((scene.height, scene.width), np.uint8)
    for index, thing in enumerate(scene.things):
        box, cover = _placed(thing)
        mask[box][cover > 0.5] = index + 1
    return mask


def _placed(thing: Thing) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return the box of a thing in the picture and its coverage there."""
    top, left = round(thing.y - thing.size / 2), round(thing.x - thing.size / 2)
    cover = mask_of(thing.name, thing.size, thing.degrees)
    return np.s_[top : top + thing.size, left : left + thing.size], cover


def _background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return [height, width, 3] float32: a grey landscape with grain, scratches and blots."""
    cells = rng.integers(3, 9, 2)
    slopes = Image.fromarray(rng.normal(0, 1, cells).astype(np.float32))
    hills = np.asarray(slopes.resize((width, height), Image.Resampling.BICUBIC))
    grey = rng.uniform(90, 165) + hills * rng.uniform(6, 24)
    canvas = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(4, 16)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        dx, dy = rng.normal(0, 30, 2)
        shade = int(rng.integers(40, 215))
        if rng.random() < 0.6:
            pen.line((x, y, x + dx, y + dy), fill=shade, width=int(rng.integers(1, 4)))
        else:
            span = (min(x, x + dx), min(y, y + dy), max(x, x + dx), max(y, y + dy))
            start, end = rng.uniform(0, 360, 2)
            pen.arc(span, start, end, fill=shade, width=int(rng.integers(1, 4)))
    tint = 1 + rng.normal(0, 0.03, 3).astype(np.float32)
    grain = _grain(rng, width, height) * rng.uniform(3, 13)
    return (np.asarray(canvas, np.float32) + grain)[..., None] * tint


def _grain(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return a [height, width] float32 window of the noise bank, standard deviation 1."""
    sheet: np.ndarray = _NOISE[rng.integers(len(_NOISE))]
    y, x = rng.integers(NOISE_SIDE - height), rng.integers(NOISE_SIDE - width)
    return sheet[y : y + height, x : x + width]
