"""Questions about a scene, with the one right answer to each.

Every answer is as likely as any other of its kind, given the question's words: colours, shapes and
digits are drawn uniformly, counts are planned by scenes.py, and for "is there" the answer is drawn
before what it is about. So a model that does not look at the picture gains nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .scene import Scene, Thing
from .words import COLORS, COUNTS, HORIZONTAL, PLURALS, SHAPES, VERTICAL, with_article

SIDE_MARGIN = 0.1
"""A thing nearer to the middle than this share of the picture is not asked for its side."""


@dataclass(frozen=True)
class Question:
    """A question, its answer, its kind, and the indices of the things that its words fit."""

    text: str
    answer: str
    kind: str
    relevant: tuple[int, ...]


def questions_of(scene: Scene) -> list[Question]:
    """Return every question of a scene, in an order and in phrasings that its seed decides."""
    rng = np.random.default_rng((scene.seed, 2_000_000))
    asked = [question for ask in ASKERS for question in ask(scene, rng)]
    return [asked[index] for index in rng.permutation(len(asked))]


def _color_questions(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for shape in SHAPES:
        fits = [i for i, thing in enumerate(scene.things) if thing.name == shape]
        if len(fits) == 1:
            text = _either(rng, f"What color is the {shape}?", f"Which color is the {shape}?")
            yield Question(text, scene.things[fits[0]].color, "color", tuple(fits))


def _shape_questions(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for color in COLORS:
        fits = _of_color(scene, color)
        if len(fits) == 1 and not scene.things[fits[0]].is_digit:
            text = _either(
                rng, f"What shape is the {color} object?", f"Which shape is the {color} object?"
            )
            yield Question(text, scene.things[fits[0]].name, "shape", tuple(fits))


def _existence_questions(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    """Two questions; if it can, a "no" joins a colour and a shape that the scene has apart."""
    present = {(thing.color, thing.name) for thing in scene.things if not thing.is_digit}
    colors, shapes = ({pair[axis] for pair in present} for axis in (0, 1))
    absent = {(color, shape) for color in COLORS for shape in SHAPES} - present
    near = {(color, shape) for color, shape in absent if color in colors and shape in shapes}
    for _ in range(2):
        exists = rng.random() < 0.5
        pool = sorted(present if exists else near or absent)
        color, shape = pool[rng.integers(len(pool))]
        phrase = with_article(f"{color} {shape}")
        fits = tuple(
            i for i, thing in enumerate(scene.things)
            if thing.name == shape or thing.color == color and not thing.is_digit
        )  # fmt: skip
        text = _either(rng, f"Is there {phrase}?", f"Can you see {phrase}?")
        yield Question(text, "yes" if exists else "no", "existence", fits)


def _count_questions(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    by_color = _of_color(scene, scene.counted_color)
    by_shape = [i for i, thing in enumerate(scene.things) if thing.name == scene.counted_shape]
    for word, fits in (
        (f"{scene.counted_color} objects", by_color),
        (PLURALS[scene.counted_shape], by_shape),
    ):
        text = _either(rng, f"How many {word} are there?", f"How many {word} can you see?")
        yield Question(text, COUNTS[len(fits)], "count", tuple(fits))


def _position_questions(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for index, thing in enumerate(scene.things):
        if thing.is_digit:
            continue
        referents = []
        if len(_of_color(scene, thing.color)) == 1:
            referents.append(f"{thing.color} object")
        if sum(other.name == thing.name for other in scene.things) == 1:
            referents.append(thing.name)
        if not referents:
            continue
        what = referents[rng.integers(len(referents))]
        for sides, place, span, text in (
            (HORIZONTAL, thing.x, scene.width, f"Is the {what} on the left or on the right?"),
            (VERTICAL, thing.y, scene.height, f"Is the {what} at the top or at the bottom?"),
        ):
            if abs(place / span - 0.5) > SIDE_MARGIN:
                yield Question(text, sides[int(place / span > 0.5)], "position", (index,))


def _digit_questions(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for index, thing in enumerate(scene.things):
        if not thing.is_digit:
            continue
        yield Question(f"What color is the digit {thing.name}?", thing.color, "digit", (index,))
        if len(_of_color(scene, thing.color, digits_only=True)) == 1:
            text = _either(rng, f"Which digit is {thing.color}?", f"What digit is {thing.color}?")
            yield Question(text, thing.name, "digit", (index,))


ASKERS: tuple[Callable[[Scene, np.random.Generator], Iterator[Question]], ...] = (
    _color_questions, _shape_questions, _existence_questions,
    _count_questions, _position_questions, _digit_questions,
)  # fmt: skip


def _of_color(scene: Scene, color: str, digits_only: bool = False) -> list[int]:
    def fits(thing: Thing) -> bool:
        return thing.color == color and (thing.is_digit or not digits_only)

    return [i for i, thing in enumerate(scene.things) if fits(thing)]


def _either(rng: np.random.Generator, first: str, second: str) -> str:
    """Choose one of two phrasings."""
    return first if rng.random() < 0.5 else second
