"""Coverage masks of the shapes and digits, drawn once and cached."""

from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

OVERSAMPLING = 4

Point = tuple[float, float]

_ARC = [pi * step / 8 for step in range(17)]
# Strokes in a box of [-1, 1] x [-1, 1], y down.
DIGIT_STROKES: dict[str, list[list[Point]]] = {
    "1": [[(-0.35, -0.5), (0.05, -0.85), (0.05, 0.85)]],
    "2": [[(0.5 * cos(a), -0.35 - 0.5 * sin(a)) for a in reversed(_ARC[:9])]
          + [(0.45, -0.15), (-0.5, 0.85), (0.55, 0.85)]],
    "3": [[(-0.5, -0.85), (0.5, -0.85), (-0.05, -0.2), (0.3, -0.1), (0.5, 0.3), (0.3, 0.75),
           (0.0, 0.85), (-0.5, 0.7)]],
    "4": [[(0.3, 0.85), (0.3, -0.85), (-0.6, 0.35), (0.65, 0.35)]],
    "5": [[(0.5, -0.85), (-0.42, -0.85), (-0.48, -0.1), (0.1, -0.2), (0.5, 0.1), (0.5, 0.5),
           (0.2, 0.82), (-0.5, 0.8)]],
    "6": [[(0.4, -0.85), (-0.2, -0.35), (-0.5, 0.3)],
          [(0.5 * cos(2 * a), 0.35 + 0.5 * sin(2 * a)) for a in _ARC]],
}  # fmt: skip
STROKE_WIDTH = 0.42


@lru_cache(maxsize=4096)
def mask_of(name: str, size: int, degrees: int) -> np.ndarray:
    """Return the anti-aliased coverage of a shape or digit.

    Args:
        name: one of words.NAMES.
        size: side of the box in pixels.
        degrees: rotation; large angles would make a cross of nothing but names, keep it small.

    Returns:
        [size, size] float32 in [0, 1]; shared, do not write to it.
    """
    side = size * OVERSAMPLING
    canvas = Image.new("L", (side, side))
    draw = ImageDraw.Draw(canvas)
    turn = pi * degrees / 180

    def place(point: Point) -> Point:
        x, y = point
        x, y = x * cos(turn) - y * sin(turn), x * sin(turn) + y * cos(turn)
        return (x + 1) * side / 2, (y + 1) * side / 2

    if name in DIGIT_STROKES:
        width = STROKE_WIDTH * side / 2
        for stroke in DIGIT_STROKES[name]:
            points = [place(point) for point in stroke]
            draw.line(points, fill=255, width=round(width))
            for x, y in points:
                draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    elif name in ("circle", "ring"):
        draw.ellipse((0, 0, side - 1, side - 1), fill=255)
        if name == "ring":
            hole = round(side * 0.24)
            draw.ellipse((hole, hole, side - 1 - hole, side - 1 - hole), fill=0)
    else:
        draw.polygon([place(point) for point in _outline(name)], fill=255)
    small = canvas.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255


def _outline(name: str) -> list[Point]:
    """Corners of a straight-edged shape in the box of [-1, 1]."""
    if name == "square":
        return [(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)]
    if name == "triangle":
        return [(0, -0.92), (0.98, 0.84), (-0.98, 0.84)]
    if name == "cross":
        arm, tip = 0.3, 0.98
        return [
            (-arm, -tip), (arm, -tip), (arm, -arm), (tip, -arm), (tip, arm), (arm, arm),
            (arm, tip), (-arm, tip), (-arm, arm), (-tip, arm), (-tip, -arm), (-arm, -arm),
        ]  # fmt: skip
    if name == "star":
        radii = [1.0 if corner % 2 == 0 else 0.4 for corner in range(10)]
        return [(r * sin(pi * i / 5), -r * cos(pi * i / 5)) for i, r in enumerate(radii)]
    raise ValueError(f"no outline for {name!r}")
