"""The closed vocabulary of the scenes: what a thing can be, and how it is called."""

COLORS = {
    "red": (214, 38, 38),
    "orange": (240, 118, 8),
    "yellow": (248, 234, 60),
    "green": (44, 160, 52),
    "cyan": (56, 212, 220),
    "blue": (40, 72, 214),
    "purple": (132, 44, 168),
    "pink": (252, 150, 200),
}
"""Name to the mean sRGB of its things."""

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
DIGITS = ("1", "2", "3", "4", "5", "6")
NAMES = SHAPES + DIGITS
"""What a thing is: a shape, or a digit drawn as a coloured glyph."""

PLURALS = {shape: shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES}
HORIZONTAL = ("left", "right")
VERTICAL = ("top", "bottom")
COUNTS = ("none", "one", "two", "three")
TYPES = ("color", "shape", "existence", "count", "position", "digit")
"""The kinds of question."""

MARK = "object"
"""Word whose embedding marks the patch at the centre of a thing."""
EMPTY = "background"
"""Word whose embedding stands for a patch that shows nothing."""
IMAGE = "<image>"
"""Token of a prompt in whose place a picture comes."""


def with_article(phrase: str) -> str:
    """Put "a" or "an" in front of a phrase."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase
