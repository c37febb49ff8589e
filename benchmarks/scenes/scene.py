"""A scene as facts: which things are where. A pure function of one integer seed.

Counts are planned before anything else: one colour and one shape each get a number of bearers drawn
uniformly from words.COUNTS, and nothing else bears them. "How many?" is asked of these two alone,
so no answer is likelier than another whatever the words of the question are.
"""

from dataclasses import dataclass

import numpy as np

from .words import COLORS, COUNTS, DIGITS, SHAPES

# Width and height in pixels, and how many of its pixels make one of the high-resolution tiles.
FORMATS = (
    (224, 224, 1.0), (224, 112, 1.0), (112, 224, 1.0), (224, 168, 1.0), (168, 224, 1.0),
    (224, 150, 1.0), (150, 224, 1.0), (280, 210, 1.25), (210, 280, 1.25), (336, 252, 1.5),
)  # fmt: skip
SHAPE_SIZES = (14, 23)
DIGIT_SIZES = (20, 27)
"""Sides in pixels of the high-resolution tiles, upper bound excluded."""
GAP = 4
MAX_THINGS = 8
ROTATIONS = (-8, -4, 0, 4, 8)
DIGIT_SHARES = (0.3, 0.45, 0.25)
"""How often a scene holds no, one or two digits."""


@dataclass(frozen=True)
class Thing:
    """A shape or a digit in the picture; coordinates and size in picture pixels."""

    color: str
    name: str
    x: float
    y: float
    size: int
    degrees: int

    @property
    def is_digit(self) -> bool:
        return self.name in DIGITS


@dataclass(frozen=True)
class Scene:
    """What a picture shows."""

    seed: int
    width: int
    height: int
    things: tuple[Thing, ...]
    counted_color: str
    counted_shape: str


def scene_of(seed: int) -> Scene:
    """Return the scene of a seed: 3 to 8 things that do not touch."""
    attempt = 0
    while (scene := _try_scene(seed, attempt)) is None:
        attempt += 1
    return scene


def _try_scene(seed: int, attempt: int) -> Scene | None:
    """Return a scene, or None when its things found no room."""
    rng = np.random.default_rng((seed, attempt))
    width, height, scale = FORMATS[rng.integers(len(FORMATS))]
    num_things = int(rng.integers(3, MAX_THINGS + 1))
    num_digits = min(int(rng.choice(3, p=DIGIT_SHARES)), num_things - len(COUNTS) + 1)
    counted_color, colors = _colors(rng, num_things, num_digits)
    counted_shape, shapes = _shapes(rng, num_things - num_digits)
    names = [*(str(digit) for digit in rng.permutation(DIGITS)[:num_digits]), *shapes]
    sizes = [
        round(scale * rng.integers(*(DIGIT_SIZES if name in DIGITS else SHAPE_SIZES)))
        for name in names
    ]
    things: list[Thing] = []
    # The largest first: they are the hardest to place.
    for index in np.argsort(sizes)[::-1]:
        spot = _free_spot(rng, width, height, sizes[index], things)
        if spot is None:
            return None
        degrees = int(rng.choice(ROTATIONS))
        things.append(Thing(colors[index], names[index], *spot, sizes[index], degrees))
    return Scene(seed, width, height, tuple(things), counted_color, counted_shape)


def _colors(rng: np.random.Generator, num_things: int, num_digits: int) -> tuple[str, list[str]]:
    """Return the counted colour and a colour for each thing, digits first; digits never bear it."""
    counted, *others = rng.permutation(list(COLORS))
    colors = [str(others[i]) for i in rng.integers(len(others), size=num_things)]
    bearers = num_digits + rng.permutation(num_things - num_digits)[: rng.integers(len(COUNTS))]
    for index in bearers:
        colors[index] = str(counted)
    return str(counted), colors


def _shapes(rng: np.random.Generator, num_shapes: int) -> tuple[str, list[str]]:
    """Return the counted shape and a shape for each thing that is no digit."""
    counted, *others = rng.permutation(SHAPES)
    shapes = [str(others[i]) for i in rng.integers(len(others), size=num_shapes)]
    for index in rng.permutation(num_shapes)[: rng.integers(len(COUNTS))]:
        shapes[index] = str(counted)
    return str(counted), shapes


def _free_spot(
    rng: np.random.Generator, width: int, height: int, size: int, things: list[Thing]
) -> tuple[float, float] | None:
    """Return a centre whose box touches neither the border nor another thing; None when crowded."""
    half = size / 2
    for _ in range(60):
        x = float(rng.integers(size // 2 + 2, width - size // 2 - 2)) + (size % 2) / 2
        y = float(rng.integers(size // 2 + 2, height - size // 2 - 2)) + (size % 2) / 2
        if all(
            max(abs(x - other.x), abs(y - other.y)) >= half + other.size / 2 + GAP
            for other in things
        ):
            return x, y
    return None
